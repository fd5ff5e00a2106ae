"""What the rows of a bench say: a sentence, whole steps, every level, and notes; as text and as one HTML page."""

from __future__ import annotations

import base64
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from fame_accel.bench.providers import EAGER, FLOOR
from fame_accel.bench.rows import Row
from fame_accel.core.parity import Verdict
from fame_accel.media.outputs import atomic_write
from fame_accel.media.packages import require

if TYPE_CHECKING:
    from pandas import DataFrame, Series

LABELS = {
    EAGER: "eager",
    "ours_triton": "fame-accel (triton)",
    "ours_sdpa": "fame-accel (sdpa)",
    FLOOR: "plain attention",
}
EDIT_STEPS, MODULATED_STEPS = 50, 15  # of inversion and again of denoising; how many of the latter are modulated
EXPLANATION = (
    "Times: medians, and in brackets the 20% and 80% quantiles. Plain attention leaves the modulation out: what every "
    "modulation costs at least. Peak: of one call, above its inputs. Error: the largest against float64, as a share of "
    "what is allowed, twice eager's own + 1e-5."
)
_NUMBERS = ("p20_ms", "p50_ms", "p80_ms", "eager_speedup", "floor_ratio", "peak_mib", "max_error", "eager_max_error")


@dataclass(frozen=True)
class Report:
    """One run of the bench.

    Attributes:
        heading: what was measured.
        machine: where, when and with what.
        command: the command that made it.
        rows: of every level, operation and provider.
        scaling: of the finest level at growing numbers of frames.
        layers: the number of the network's layers of each shape.
        notes: what a reader must know.
        ours: the provider that is this library.
    """

    heading: str
    machine: str
    command: str
    rows: list[Row]
    scaling: list[Row]
    layers: dict[str, int]
    notes: list[str]
    ours: str


def table(rows: Sequence[Row]) -> DataFrame:
    """Rows as a table: columns of figures as numbers, and whether each row `ran` and is right."""
    pandas = require("pandas", "bench")
    data = pandas.DataFrame(rows, columns=["shape", "operation", "frames", "keys", "provider", *_NUMBERS, "note"])
    data[list(_NUMBERS)] = data[list(_NUMBERS)].apply(pandas.to_numeric)
    data["note"] = data["note"].fillna("")
    data["ran"] = data["p50_ms"].notna() & ~data["note"].str.startswith("WRONG")
    data["label"] = data["provider"].map(label)
    allowed = Verdict((0.0, 0.0), (data["eager_max_error"], 0.0)).allowed[0]
    data["error_share"] = data["max_error"] / allowed
    return data


def steps(report: Report) -> DataFrame:
    """The attention of whole steps: of all operations together, then of each.

    Returns:
        A row of each step and provider that ran at all its levels: milliseconds, the largest peak (MiB) and error.
    """
    pandas = require("pandas", "bench")
    data = table(report.rows)
    data["milliseconds"] = data["p50_ms"] * data["shape"].map(report.layers)
    operations = list(data["operation"].unique())
    tables = [pandas.DataFrame(columns=["step", "provider", "milliseconds", "peak_mib", "max_error"])]
    for part in ([operations] if len(operations) > 1 else []) + [[name] for name in operations]:
        of_part = data[data["operation"].isin(part)]
        levels = len(of_part[["shape", "operation"]].drop_duplicates())
        groups = of_part[of_part["ran"]].groupby("provider", sort=False)
        sums = groups.agg({"milliseconds": "sum", "peak_mib": "max", "max_error": "max", "shape": "size"})
        sums = sums[sums["shape"] == levels].drop(columns="shape").reset_index()
        tables.append(sums.assign(step=" and ".join(map(operation_name, part))))
    return pandas.concat([one for one in tables if len(one)] or tables[:1], ignore_index=True)


def conclusion(report: Report) -> list[str]:
    """What there is to gain, in a few sentences: of a whole modulated step, where all of it was measured."""
    data, whole = table(report.rows), steps(report)
    wrong = data[(data["provider"] == report.ours) & data["note"].str.startswith("WRONG")]
    sentences = [f"The result of fame-accel at {shape} is WRONG." for shape in wrong["shape"]]
    own = whole[whole["provider"] == report.ours]
    if own.empty:
        return sentences or ["fame-accel was not timed at every level, so there is no time of a whole step."]
    ours = own.iloc[0]
    whole = whole[whole["step"] == ours["step"]].set_index("provider")
    eager = whole.loc[EAGER] if EAGER in whole.index else None
    first = f"Attention of one modulated step ({ours['step']}): {_gain(ours, eager)}"
    if eager is None:
        missing = data[(data["provider"] == EAGER) & ~data["ran"]]
        first += f"; eager was not timed at {', '.join(missing['shape'])} (see the notes)"
        return [*sentences, f"{first}.", *_most_frames(report)]
    sentences.append(f"{first}.")
    if FLOOR in whole.index:
        # plain: inversion, and under guidance both halves of a step, but for the conditional half of modulated ones
        plain = (EDIT_STEPS + 2 * EDIT_STEPS - MODULATED_STEPS) * whole.loc[FLOOR, "milliseconds"]
        edits = [MODULATED_STEPS * step["milliseconds"] + plain for step in (ours, eager)]
        sentences.append(
            f"By these medians, all attention of a guided edit ({EDIT_STEPS} steps of inversion and {EDIT_STEPS} of "
            f"denoising, {MODULATED_STEPS} of them modulated) takes {in_time(edits[0])} instead of {in_time(edits[1])} "
            f"with eager, {ratio(edits[1] / edits[0])} times as fast."
        )
    return sentences


def as_text(report: Report) -> str:
    """The report for a terminal."""
    parts = [f"{report.heading}\n{report.machine}"]
    parts += [f"{title}:\n{data.to_string(index=False)}" for title, data in tables(report).items()]
    prose = [EXPLANATION, *notes(report), *report.notes, *conclusion(report)]
    return "\n\n".join(parts + [textwrap.fill(sentence, 110) for sentence in prose])


def as_html(report: Report, picture: bytes, path: str | PathLike[str]) -> None:
    """Write the report as one HTML page that needs no other file.

    Args:
        report: what to write.
        picture: an SVG.
        path: the file to write.

    Raises:
        ImportError: pandas or jinja2 is missing.
    """
    jinja2 = require("jinja2", "bench")
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True).get_template("report.html.jinja")
    page = template.render(
        report=report,
        conclusion=conclusion(report),
        tables={title: data.to_html(index=False, border=0) for title, data in tables(report).items()},
        picture=base64.b64encode(picture).decode("ascii"),
        explanation=EXPLANATION,
        remarks=notes(report) + report.notes,
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def tables(report: Report) -> dict[str, DataFrame]:
    """The tables of the report by title, their cells as text."""
    pandas = require("pandas", "bench")
    whole = steps(report)
    times = whole.set_index(["step", "provider"])["milliseconds"]
    eager, plain = ([times.get((step, name)) for step in whole["step"]] for name in (EAGER, FLOOR))
    summed = pandas.DataFrame({
        "step": whole["step"],
        "provider": whole["provider"].map(label),
        "time": whole["milliseconds"].map(in_time),
        "x as fast as eager": [ratio(a and a / b) for a, b in zip(eager, whole["milliseconds"], strict=True)],
        "x of plain": [ratio(a and b / a) for a, b in zip(plain, whole["milliseconds"], strict=True)],
        "largest peak": whole["peak_mib"].map(in_mib),
    })  # fmt: skip
    data = table(report.rows)
    data = data[data["ran"] | data["note"].str.startswith("WRONG")]
    levels = pandas.DataFrame({
        "level": data["shape"],
        "operation": data["operation"].map(operation_name),
        "keys": data["keys"],
        "provider": data["label"],
        "ms": data.apply(_spread, axis=1) if len(data) else [],
        "x as fast as eager": data["eager_speedup"].map(ratio),
        "x of plain": data["floor_ratio"].map(ratio),
        "peak": data["peak_mib"].map(in_mib),
        "error of allowed": data.apply(_error, axis=1) if len(data) else [],
    })  # fmt: skip
    both = {"Attention of a whole step": summed, "One layer at each level": levels}
    return {title: data for title, data in both.items() if len(data)}


def notes(report: Report) -> list[str]:
    """A line for each note of the rows; notes that differ in their numbers alone are one line."""
    data = table([*report.rows, *(row for row in report.scaling if row not in report.rows)])
    data = data[(data["note"] != "") & (data["provider"] != FLOOR)]
    lines = []
    for (name, _), group in data.groupby(["label", data["note"].str.replace(r"[\d.]+", "#", regex=True)], sort=False):
        lines.append(f"{name} at {', '.join(group['shape'].unique())}: {group['note'].iloc[0]}")
    return lines


def case_line(rows: Sequence[Row]) -> str:
    """A case that is done, in a line."""
    data = table(rows)
    times = [f"{row['label']} {in_time(row['p50_ms'])}" for _, row in data[data["ran"]].iterrows()]
    times += [f"{name} WRONG" for name in data[data["note"].str.startswith("WRONG")]["label"]]
    first = rows[0]
    frames = f"{first['frames']} frame{'s' if first['frames'] != 1 else ''}"
    return f"{first['shape']}, {frames}, {operation_name(first['operation'])}: {', '.join(times) or 'not timed'}"


def label(provider: str) -> str:
    """A provider's name for readers."""
    return LABELS.get(provider, provider)


def operation_name(operation: str) -> str:
    """An operation's name for readers."""
    text = re.fullmatch(r"cross_(\d+)", operation)
    return f"cross-attention to {text[1]} words" if text else operation.replace("_", " ")


def digits(value: float) -> str:
    """Three digits, or a whole number."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio(value: float | None) -> str:
    """A ratio with two digits after the point where it is small."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 2 else f"{value:.2f}"


def in_time(milliseconds: float) -> str:
    """A time in the unit that suits it."""
    if milliseconds >= 1000:
        return f"{digits(milliseconds / 1000)} s"
    return f"{digits(milliseconds)} ms" if milliseconds >= 1 else f"{digits(1000 * milliseconds)} µs"


def in_mib(mib: float) -> str:
    """An amount of memory in the unit that suits it; NaN is unknown."""
    if math.isnan(mib):
        return "-"
    return f"{digits(mib / 1024)} GiB" if mib >= 1000 else f"{digits(mib)} MiB" if mib >= 1 else "<1 MiB"


def _gain(ours: Series, eager: Series | None) -> str:
    """Time, memory and error of this library, beside eager's."""
    text = in_time(ours["milliseconds"])
    if eager is not None:
        speedup = ratio(eager["milliseconds"] / ours["milliseconds"])
        text += f" instead of {in_time(eager['milliseconds'])} with eager, {speedup} times as fast"
    if not math.isnan(ours["peak_mib"]):
        text += f", in {in_mib(ours['peak_mib'])}"
        text += "" if eager is None or math.isnan(eager["peak_mib"]) else f" instead of {in_mib(eager['peak_mib'])}"
    return f"{text}; its results agree with float64 to {ours['max_error']:.1e}"


def _most_frames(report: Report) -> list[str]:
    """The gain of one layer at the most frames that both eager and this library managed."""
    data = table(report.scaling)
    times = data[data["ran"]].pivot_table(index="frames", columns="provider", values="p50_ms")
    if not {EAGER, report.ours} <= set(times) or times[[EAGER, report.ours]].dropna().empty:
        return []
    times = times[[EAGER, report.ours]].dropna()
    frames, (eager, ours) = times.index[-1], times.iloc[-1]
    return [
        f"The finest layer at {frames} frame{'s' if frames != 1 else ''}, the most of those tried that eager managed: "
        f"{in_time(ours)} instead of {in_time(eager)} with eager, {ratio(eager / ours)} times as fast."
    ]


def _spread(row: Series) -> str:
    """The median in milliseconds, with its quantiles where they differ."""
    if not row["ran"]:
        return "-"
    low, median, high = (digits(row[f"p{level}_ms"]) for level in (20, 50, 80))
    return median if low == high else f"{median} ({low}-{high})"


def _error(row: Series) -> str:
    """The error as a share of what is allowed, and whether it is too large."""
    share = row["error_share"]
    if math.isnan(share):
        return "-"
    text = "not finite" if math.isinf(share) else f"{share:.0%}" if share >= 0.01 else "<1%"
    return text if row["ran"] else f"{text}, WRONG"
