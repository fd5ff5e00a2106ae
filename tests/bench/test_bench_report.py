"""What `fame-accel bench` shows of its rows: sums, the table, charts and the HTML report, on made-up figures."""

from __future__ import annotations

import base64
import math
import sys
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from PIL import Image

from fame_accel.bench.charts import DPI, WIDTH, panels, write_png
from fame_accel.bench.html_report import write_html
from fame_accel.bench.rows import COLUMNS
from fame_accel.bench.summary import Summary, ended_at, groups, ours, share, steps
from fame_accel.bench.wording import answer, as_table, case_told, cells, not_run

WRONG = "WRONG: its error is more than twice eager's + 1e-5"
PULL = "scores are pulled to extremes of their row: no bias known before the call says it"
EAGER_ERROR = 1e-6  # so 1.2e-5 is allowed


def row(shape: str, provider: str, ms: float | None = None, mib: float | None = None, **more: object) -> dict:
    """A row as it is read from a file: text, empty where not measured."""
    cells = dict.fromkeys(COLUMNS, "") | dict(shape=shape, operation="fame", frames=8, keys=512, provider=provider)
    if ms is not None:
        cells |= dict(repeats=5, p20_ms=0.9 * ms, p50_ms=ms, p80_ms=1.2 * ms)
    if mib is not None:
        cells["peak_mib"] = mib
    if ms is not None and provider != "sdpa_plain":
        cells |= dict(max_error=3e-6, mean_error=1e-7, eager_max_error=EAGER_ERROR, eager_mean_error=1e-7)
    return {name: str(cell) for name, cell in (cells | more).items()}


def level(shape: str, eager: float, triton: float, sdpa: float, plain: float) -> list[dict]:
    ratios = {
        ms: dict(eager_speedup=f"{eager / ms:.4g}", floor_ratio=f"{ms / plain:.4g}")
        for ms in (eager, triton, sdpa, plain)
    }
    return [
        row(shape, "eager", eager, 2048, note="heads one at a time", **ratios[eager]),
        row(shape, "sdpa_plain", plain, 20, note="plain attention, the floor", **ratios[plain]),
        row(shape, "ours_triton", triton, 48, **ratios[triton]),
        row(shape, "ours_sdpa", sdpa, 64, **ratios[sdpa]),
        row(shape, "sdpa_bias", note=PULL),
        row(shape, "xformers", note=PULL),
    ]


def growing() -> list[dict]:
    rows = []
    for frames in (2, 4, 8):
        out = f"out of memory: N x N matrices take about {frames} GiB, 1 are free"
        rows += [
            row("32x32", "eager", 10 * frames**2, 100 * frames, frames=frames)
            if frames < 8
            else row("32x32", "eager", frames=frames, note=out),
            row("32x32", "ours_triton", 2 * frames**2, 10 * frames, frames=frames),
            row("32x32", "sdpa_plain", frames**2, 5, frames=frames),
        ]
    return rows


SUMMARY = Summary(
    heading="sd15, 8 frames of 256x256, fame, float32",
    machine="a CPU, 2 threads; torch 2.13; 2026-11-24; commit abc",
    command="fame-accel bench --frames 8",
    # 5 x 400 + 3 x 40 = 2120; ours: 5 x 50 + 3 x 4 (sdpa is faster there) = 262; plain: 5 x 25 + 3 x 2 = 131
    rows=level("32x32", 400, 50, 80, 25) + level("16x16", 40, 8, 4, 2),
    scaling=growing(),
    layers={"32x32": 5, "16x16": 3},
    notes=["The level 8x8 was left out."],
)


def changed(shape: str, provider: str, **cells: str) -> Summary:
    """SUMMARY with other cells in the row of a shape and provider."""
    rows = [one | cells if (one["shape"], one["provider"]) == (shape, provider) else one for one in SUMMARY.rows]
    return replace(SUMMARY, rows=rows)


class Page(HTMLParser):
    """Attributes of every tag, and the text of the page without its style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(path, summary: Summary) -> Page:
    write_html(path, summary)
    return Page(path.read_text(encoding="utf-8"))


def test_a_step_is_the_sum_of_its_layers():
    (step,) = steps(SUMMARY)
    assert step.shapes == ("32x32", "16x16") and step.layers == 8 and not step.missing
    assert step.milliseconds == {
        "eager": 2120, "ours": 262, "ours_triton": 5 * 50 + 3 * 8, "ours_sdpa": 5 * 80 + 3 * 4, "sdpa_plain": 131,
    }  # fmt: skip
    assert step.peak_mib == {"eager": 2048, "ours": 64, "ours_triton": 48, "ours_sdpa": 64, "sdpa_plain": 20}
    assert "sdpa_plain" not in step.error and step.error["ours"] == 3e-6
    assert ours(groups(SUMMARY.rows)["16x16", "fame"])["provider"] == "ours_sdpa"


def test_the_answer_is_of_the_whole_step():
    assert answer(SUMMARY) == [
        "Attention of one modulated step: 262 ms instead of 2.12 s with eager, 8.1 times as fast, in 64 MiB instead of "
        "2 GiB; results agree with float64 to 3.0e-06 (eager's to 1.0e-06).",
        # 15 modulated halves, 85 plain ones of 131 ms, and as much for each of 50 steps of inversion
        "By these medians all attention of a guided edit, 50 steps of inversion and 50 of denoising, 15 of them "
        "modulated: 21.6 s instead of 49.5 s with eager, 2.3 times as fast.",
    ]


def test_without_eager_anywhere_fewer_frames_answer():
    out = {"note": "out of memory: N x N matrices take about 9 GiB, 1 are free", "p50_ms": "", "peak_mib": ""}
    rows = [one | out if one["provider"] == "eager" else one for one in SUMMARY.rows]
    *_, last = answer(replace(SUMMARY, rows=rows))
    assert last == (
        "The finest layer at 4 frames, the most of those tried that both managed: 32 ms instead of 160 ms with eager, "
        "5.0 times as fast."
    )
    assert not any("frames" in sentence for sentence in answer(replace(SUMMARY, rows=rows, scaling=[])))


def test_a_case_in_a_line():
    told = case_told([row("32x32-f1", "eager", 40, frames=1, height=32, width=32), row("32x32-f1", "ours_sdpa", 8)])
    assert told == "32x32, 1 frame, fame: eager 40 ms, fame-accel (sdpa) 8 ms"
    assert case_told([row("a", "eager", operation="cross_77")]).endswith("cross-attention to 77 words: not timed")


def test_what_is_next_to_nothing():
    assert cells(row("a", "eager", 1, 0.3, max_error=1e-9))[3:] == ["<1", "<1%"]


def test_without_eager_at_a_level_there_is_no_ratio_of_the_step():
    out = {"note": "out of memory: N x N matrices take about 9 GiB, 1 are free", "p50_ms": "", "peak_mib": ""}
    summary = changed("32x32", "eager", **out)
    assert "eager" not in steps(summary)[0].milliseconds
    first, second = answer(summary)
    assert first.startswith("Attention of one modulated step: 262 ms, in 64 MiB; results")
    assert first.endswith("; eager runs out of memory at 32x32.") and "instead" not in first
    assert second == "One layer at 16x16: 4 ms instead of 40 ms with eager, 10.0 times as fast."


def test_a_step_says_which_levels_were_not_measured():
    summary = replace(SUMMARY, layers={"64x64": 2, "32x32": 5}, rows=SUMMARY.rows[:6])
    (step,) = steps(summary)
    assert step.missing == ("64x64",) and step.milliseconds["ours"] == 250
    assert answer(summary)[0].startswith("Attention of one modulated step without 64x64 (not measured): 250 ms instead")
    assert answer(replace(summary, layers={}))[0].startswith("Attention of one layer at 32x32: 50 ms instead of 400 ms")


def test_self_and_cross_attention_are_one_step():
    text = [one | {"operation": "cross_77", "shape": f"{one['shape']}-text77"} for one in SUMMARY.rows]
    layers = SUMMARY.layers | {f"{shape}-text77": number for shape, number in SUMMARY.layers.items()}
    both = replace(SUMMARY, rows=SUMMARY.rows + text, layers=layers)
    whole, own, cross = steps(both)
    assert whole.operations == ("fame", "cross_77") and whole.layers == 16 and not own.missing + cross.missing
    assert whole.milliseconds["ours"] == 2 * 262 and own.milliseconds["ours"] == cross.milliseconds["ours"] == 262
    assert answer(both)[0].startswith("Attention of one modulated step: 524 ms instead of 4.24 s with eager, 8.1 times")
    late = {"p50_ms": "", "note": "not measured: the 90 s of --seconds are spent"}
    rows = [one | late if one["shape"] == "32x32" and one["provider"] != "sdpa_plain" else one for one in both.rows]
    first, *more = answer(replace(both, rows=rows))
    what = "Attention of one modulated step, cross-attention to 77 words alone"
    assert first.startswith(f"{what}: 262 ms instead of 2.12 s")
    assert more[0].startswith("The finest layer at 4 frames, ")
    assert more[1:] == ["There is no time of fame-accel at 32x32."]
    # the operations of one shape are no sum
    plain = [one | {"operation": "plain"} for one in SUMMARY.rows]
    assert [step.title for step in steps(replace(SUMMARY, rows=plain + SUMMARY.rows))] == [
        "one modulated step (fame; 8 layers)", "one plain step (plain; 8 layers)",
    ]  # fmt: skip


def test_errors_are_told_as_a_share_of_what_is_allowed():
    assert share(SUMMARY.rows[0]) == pytest.approx(3e-6 / 1.2e-5)
    assert share(SUMMARY.rows[1]) is None
    assert share(SUMMARY.rows[0] | {"max_error": "inf"}) == math.inf


def test_table():
    table = as_table(SUMMARY)
    cells = [line.split() for line in table.splitlines()]
    assert ["32x32", "fame", "512", "eager", "400", "(360-480)", "1.00", "16.0", "2048", "25%"] in cells
    assert ["fame-accel", "(triton)", "50", "(45-60)", "8.0", "2.0", "48", "25%"] in cells
    assert ["plain", "attention", "2", "(1.8-2.4)", "20.0", "1.00", "20", "-"] in cells
    assert ["fame-accel", "262", "ms", "8.1", "2.0", "64", "MiB"] in cells  # of the step
    assert table.count(PULL) == 1
    assert f"  sdpa with dense bias; xformers: {PULL}" in table
    assert "  eager at 8 frames: out of memory: N x N matrices take about 8 GiB, 1 are free" in table
    assert all(sentence in " ".join(table.split()) for sentence in (*answer(SUMMARY), *SUMMARY.notes))
    assert max(len(line) for line in table.splitlines()[3:18]) <= 120


def test_reasons_that_differ_in_numbers_are_told_once():
    scaling = [row("32x32", "eager", frames=frames, note=f"out of memory: about {frames} GiB") for frames in (16, 32)]
    assert not_run(replace(SUMMARY, rows=[], scaling=scaling)) == ["eager: out of memory: about 16 GiB (at 16 frames)"]


def test_a_wrong_result_is_shown_and_never_the_answer(tmp_path):
    # with a time, which the bench itself does not give it
    summary = changed("16x16", "ours_sdpa", note=WRONG, max_error="5.0e-02", p50_ms="0.001")
    assert steps(summary)[0].milliseconds["ours"] == 5 * 50 + 3 * 8
    assert "ours_sdpa" not in steps(summary)[0].milliseconds
    assert answer(summary)[-1] == "The result of fame-accel (sdpa) at 16x16 is WRONG."
    report = page(tmp_path / "bench.html", summary)
    for text in (as_table(summary), report.text, panels(summary)[-1].alt):
        assert "4167 x, WRONG" in text and "0.001" not in text
    assert f"fame-accel (sdpa) at 16x16: {WRONG}" in report.text
    assert [line.get("class") for line in report.all("tr")].count("wrong") == 1


def test_a_result_that_is_not_finite(tmp_path):
    summary = changed("16x16", "ours_sdpa", note=WRONG, max_error="inf")
    assert "not finite, WRONG" in as_table(summary)
    write_png(tmp_path / "bench.png", replace(summary, scaling=[]))


def test_only_wrong_results_give_no_answer():
    rows = [row("32x32", "eager", 400), row("32x32", "ours_sdpa", note=WRONG, max_error="1", eager_max_error="1e-6")]
    assert answer(replace(SUMMARY, rows=rows)) == ["The result of fame-accel (sdpa) at 32x32 is WRONG."]
    assert answer(replace(SUMMARY, rows=[], scaling=[])) == ["There is no time of fame-accel."]


def test_eager_ends_where_it_ran_out_of_memory():
    assert ended_at(SUMMARY.scaling) == 8
    assert ended_at([one for one in SUMMARY.scaling if one["frames"] != "8"]) is None
    alt = {panel.name: panel.alt for panel in panels(SUMMARY)}["scaling_time"]
    assert "eager: 40 ms at 2, 160 ms at 4" in alt and alt.endswith("eager is out of memory at 8.")
    assert "fame-accel: 8 ms at 2, 32 ms at 4, 128 ms at 8" in alt


def test_png(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    write_png(tmp_path / "bench.png", SUMMARY)
    with Image.open(tmp_path / "bench.png") as chart:
        assert chart.width == 2 * WIDTH * DPI
        assert chart.height > DPI * sum(panel.height for panel in panels(SUMMARY)[::2])
        colors = {color for _, color in chart.convert("RGB").getcolors(1 << 18)}
    assert {(0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73)} <= colors  # eager, ours, plain attention
    with pytest.raises(ValueError, match="nothing to draw"):
        write_png(tmp_path / "empty.png", replace(SUMMARY, rows=[], scaling=[]))


def test_what_was_not_measured_has_no_panel(tmp_path):
    assert [panel.name for panel in panels(SUMMARY)] == ["time", "memory", "scaling_time", "scaling_memory", "parity"]
    bare = [one | {"peak_mib": ""} for one in SUMMARY.rows if one["provider"] != "eager"]
    summary = replace(SUMMARY, rows=bare, scaling=[], notes=[])
    assert [panel.name for panel in panels(summary)] == ["time", "parity"]
    assert answer(summary)[0].startswith("Attention of one modulated step: 262 ms; results agree")
    assert "262 ms" in as_table(summary)
    report = page(tmp_path / "bench.html", summary)
    assert len(report.all("img")) == 2 and "peak" not in {td.get("data-title") for td in report.all("td")}


def test_html(tmp_path):
    path = tmp_path / "bench.html"
    report = page(path, SUMMARY)
    assert not report.open  # every tag is closed
    for figure in (*answer(SUMMARY), "2.12 s", "262 ms", "131 ms", "8.1", "50 (45-60)", PULL, *SUMMARY.notes):
        assert figure in report.text
    assert report.all("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in report.all("meta"))
    assert report.text.count(SUMMARY.heading) == 2  # the title and the page
    assert len(report.all("caption")) == len(report.all("table")) == 3
    for image in report.all("img"):
        head, _, data = image["src"].partition(",")
        assert head == "data:image/svg+xml;base64" and any(letter.isdigit() for letter in image["alt"])
        svg = ElementTree.fromstring(base64.b64decode(data))
        assert svg.get("width") == f"{72 * WIDTH:g}pt"
        references = [value for node in svg.iter() for name, value in node.attrib.items() if name.endswith("href")]
        assert all(value.startswith("#") for value in references)
    links = [value for _, found in report.tags for name, value in found.items() if name in ("src", "href")]
    assert links and all(value.startswith(("data:", "#")) for value in links)
    text = path.read_text(encoding="utf-8")
    assert not report.all("script") and "@import" not in text and "url(" not in text
    assert [file.name for file in tmp_path.iterdir()] == ["bench.html"]


def test_html_and_charts_take_any_text(tmp_path):
    nasty = '<script>alert("x")</script> & $x^2'
    rows = [one | {"shape": nasty, "note": f"{nasty} {one['note']}"} for one in SUMMARY.rows[:6]]
    summary = Summary(nasty, nasty, nasty, rows, [], {nasty: 1}, [nasty])
    report = page(tmp_path / "bench.html", summary)
    assert not report.all("script")
    assert report.text.count(nasty) >= 6 and any(nasty in image["alt"] for image in report.all("img"))
    write_png(tmp_path / "bench.png", summary)
