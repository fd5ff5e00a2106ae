"""What `fame-accel bench` makes of its rows, on made-up figures: sums, sentences, tables, the page and the picture."""

from __future__ import annotations

import base64
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from fame_accel.bench.picture import draw
from fame_accel.bench.report import Report, as_html, as_text, case_line, conclusion, notes, steps, tables
from fame_accel.bench.rows import COLUMNS

WRONG = "WRONG: its error is more than twice eager's + 1e-5"
FULL = {"note": "out of memory: N x N matrices take about 9 GiB, 1 are free", "p50_ms": None, "peak_mib": None}


def row(shape: str, provider: str, ms: float | None, mib: float | None, **more: object) -> dict:
    cells = dict.fromkeys(COLUMNS) | dict(shape=shape, operation="fame", frames=8, keys=512, provider=provider, note="")
    if ms is not None:
        cells |= dict(repeats=5, p20_ms=f"{0.9 * ms:.4g}", p50_ms=f"{ms:.4g}", p80_ms=f"{1.2 * ms:.4g}", peak_mib=mib)
    if provider != "sdpa_plain":  # 1.2e-5 is allowed
        cells |= dict(max_error="3e-6", mean_error="1e-7", eager_max_error="1e-6", eager_mean_error="1e-7")
    return cells | more


def level(shape: str, eager: float, ours: float, plain: float) -> list[dict]:
    times = {"eager": (eager, 2048), "sdpa_plain": (plain, 20), "ours_sdpa": (ours, 64)}
    return [
        row(shape, name, ms, mib, eager_speedup=f"{eager / ms:.4g}", floor_ratio=f"{ms / plain:.4g}")
        for name, (ms, mib) in times.items()
    ]


def growing() -> list[dict]:
    rows = []
    for frames in (2, 4, 8):
        shape = "32x32" if frames == 8 else f"32x32-f{frames}"
        eager = row(shape, "eager", 10 * frames**2, 100 * frames, frames=frames)
        rows += [
            eager | FULL if frames == 8 else eager,
            row(shape, "ours_sdpa", 2 * frames**2, 10 * frames, frames=frames),
            row(shape, "sdpa_plain", frames**2, 5, frames=frames),
        ]
    return rows


REPORT = Report(
    heading="sd15, 8 frames of 256x256, fame, float32",
    machine="a CPU, 2 threads; torch 2.13; 2026-11-24; commit abc",
    command="fame-accel bench --frames 8",
    # eager: 5 x 400 + 3 x 40 = 2120; ours: 5 x 50 + 3 x 4 = 262; plain: 5 x 25 + 3 x 2 = 131
    rows=level("32x32", 400, 50, 25) + level("16x16", 40, 4, 2),
    scaling=growing(),
    layers={"32x32": 5, "16x16": 3},
    notes=["Made-up figures."],
    ours="ours_sdpa",
)


def changed(shape: str, provider: str, **cells: object) -> Report:
    """REPORT with other cells in the row of a shape and provider."""
    rows = [one | cells if (one["shape"], one["provider"]) == (shape, provider) else one for one in REPORT.rows]
    return replace(REPORT, rows=rows)


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text without the style."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def page(path: Path, report: Report) -> Page:
    as_html(report, draw(report, "svg"), path)
    return Page(path)


def test_a_step_is_the_sum_of_its_layers() -> None:
    whole = steps(REPORT).set_index("provider")
    assert whole["milliseconds"].to_dict() == {"eager": 2120, "sdpa_plain": 131, "ours_sdpa": 262}
    assert whole["peak_mib"].to_dict() == {"eager": 2048, "sdpa_plain": 20, "ours_sdpa": 64}
    assert whole["max_error"]["ours_sdpa"] == 3e-6 and set(whole["step"]) == {"fame"}


def test_the_conclusion_is_of_the_whole_step() -> None:
    assert conclusion(REPORT) == [
        "Attention of one modulated step (fame): 262 ms instead of 2.12 s with eager, 8.1 times as fast, in 64 MiB "
        "instead of 2 GiB; its results agree with float64 to 3.0e-06.",
        # 15 modulated halves, 85 plain ones of 131 ms, and as much for each of 50 steps of inversion
        "By these medians, all attention of a guided edit (50 steps of inversion and 50 of denoising, 15 of them "
        "modulated) takes 21.6 s instead of 49.5 s with eager, 2.3 times as fast.",
    ]


def test_self_and_cross_attention_are_one_step() -> None:
    text = [one | {"operation": "cross_77", "shape": f"{one['shape']}-text77"} for one in REPORT.rows]
    layers = REPORT.layers | {f"{shape}-text77": number for shape, number in REPORT.layers.items()}
    both = replace(REPORT, rows=REPORT.rows + text, layers=layers)
    ours = steps(both).set_index(["provider", "step"])["milliseconds"]["ours_sdpa"]
    cross = "cross-attention to 77 words"
    assert ours.to_dict() == {f"fame and {cross}": 524, "fame": 262, cross: 262}
    assert conclusion(both)[0].startswith(
        f"Attention of one modulated step (fame and {cross}): 524 ms instead of 4.24 s"
    )
    late = {"p50_ms": None, "note": "not measured: the 90 s of --seconds are spent"}
    rows = [one | late if "text" in one["shape"] else one for one in both.rows]
    assert conclusion(replace(both, rows=rows))[0].startswith("Attention of one modulated step (fame): 262 ms")


def test_where_eager_does_not_fit_fewer_frames_answer() -> None:
    first, second = conclusion(changed("32x32", "eager", **FULL))
    assert first.startswith("Attention of one modulated step (fame): 262 ms, in 64 MiB; its results")
    assert first.endswith("; eager was not timed at 32x32 (see the notes).") and "instead" not in first
    assert second == (
        "The finest layer at 4 frames, the most of those tried that eager managed: 32 ms instead of 160 ms with eager, "
        "5.0 times as fast."
    )
    assert len(conclusion(replace(changed("32x32", "eager", **FULL), scaling=[]))) == 1


def test_a_wrong_result_is_shown_and_has_no_time(tmp_path: Path) -> None:
    report = changed("16x16", "ours_sdpa", note=WRONG, max_error="5.0e-02", p50_ms="0.001")
    assert "ours_sdpa" not in set(steps(report)["provider"])
    assert conclusion(report) == ["The result of fame-accel at 16x16 is WRONG."]
    for text in (as_text(report), page(tmp_path / "bench.html", report).text):
        assert "416667%, WRONG" in text and "0.001" not in text and WRONG in text
    assert "not finite, WRONG" in as_text(changed("16x16", "ours_sdpa", note=WRONG, max_error="inf", p50_ms=None))
    assert "not timed at every level" in conclusion(replace(REPORT, rows=REPORT.rows[:2]))[0]


def test_tables_and_text() -> None:
    whole, levels = tables(REPORT).values()
    assert list(whole.iloc[2]) == ["fame", "fame-accel (sdpa)", "262 ms", "8.1", "2.0", "64 MiB"]
    cells = ["32x32", "fame", 512, "eager", "400 (360-480)", "1.00", "16.0", "2 GiB", "25%"]
    assert list(levels.iloc[0]) == cells
    cells = ["16x16", "fame", 512, "plain attention", "2 (1.8-2.4)", "20.0", "1.00", "20 MiB", "-"]
    assert list(levels.iloc[4]) == cells
    text = " ".join(as_text(REPORT).split())
    assert all(sentence in text for sentence in (*conclusion(REPORT), *REPORT.notes, REPORT.heading, REPORT.machine))
    assert "eager at 32x32: out of memory: N x N matrices take about 9 GiB" in text


def test_notes_that_differ_in_numbers_are_one_line() -> None:
    full = [row(f"f{n}", "eager", None, None, note=f"out of memory: about {n} GiB") for n in (16, 32)]
    assert notes(replace(REPORT, rows=full, scaling=[])) == ["eager at f16, f32: out of memory: about 16 GiB"]


def test_a_case_in_a_line() -> None:
    rows = [row("32x32-f1", "eager", 40, 1, frames=1), row("32x32-f1", "ours_sdpa", 0.08, 1, note=WRONG)]
    assert case_line(rows) == "32x32-f1, 1 frame, fame: eager 40 ms, fame-accel (sdpa) WRONG"
    untimed = row("a", "eager", None, None, operation="cross_77")
    assert case_line([untimed]) == "a, 8 frames, cross-attention to 77 words: not timed"


def test_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    (tmp_path / "bench.png").write_bytes(draw(REPORT, "png"))
    with Image.open(tmp_path / "bench.png") as chart:
        colors = {color for _, color in chart.convert("RGB").getcolors(1 << 18)}
        height = chart.height
    assert {(0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73)} <= colors  # eager, ours, plain attention
    without_memory = [one | {"peak_mib": None} for one in REPORT.rows]
    (tmp_path / "small.png").write_bytes(draw(replace(REPORT, rows=without_memory, scaling=[]), "png"))
    with Image.open(tmp_path / "small.png") as chart:
        assert chart.height == height / 4  # one panel of four
    assert draw(REPORT, "svg").startswith(b"<?xml")
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(replace(REPORT, rows=[], scaling=[]), "png")


def test_page_needs_no_other_file(tmp_path: Path) -> None:
    report = page(tmp_path / "bench.html", REPORT)
    assert not report.open  # every tag is closed
    for text in (*conclusion(REPORT), "2.12 s", "131 ms", "50 (45-60)", REPORT.machine, REPORT.command, *REPORT.notes):
        assert text in report.text
    tags = [name for name, _ in report.tags]
    assert tags.count("table") == 2 and "script" not in tags
    links = [value for _, attributes in report.tags for name, value in attributes.items() if name in ("src", "href")]
    assert len(links) == 2 and all(value.startswith("data:") for value in links)
    [picture] = [attributes["src"].partition(",")[2] for name, attributes in report.tags if name == "img"]
    svg = ElementTree.fromstring(base64.b64decode(picture))
    references = [value for node in svg.iter() for name, value in node.attrib.items() if name.endswith("href")]
    assert all(value.startswith("#") for value in references)


def test_page_and_picture_take_any_text(tmp_path: Path) -> None:
    nasty = '<script>alert("x")</script> & $x^2'
    rows = [one | {"shape": nasty, "note": nasty} for one in REPORT.rows[:3]]
    report = Report(nasty, nasty, nasty, rows, [], {nasty: 1}, [nasty], "ours_sdpa")
    written = page(tmp_path / "bench.html", report)
    assert "script" not in [name for name, _ in written.tags] and written.text.count(nasty) >= 6
