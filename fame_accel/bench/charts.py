"""The charts of a bench: time and memory by level and over frames, and errors. As one PNG, or each as SVG."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any

from fame_accel.bench.providers import EAGER, FLOOR
from fame_accel.bench.rows import Row
from fame_accel.bench.summary import (
    BACKENDS,
    LABELS,
    OURS,
    Group,
    Summary,
    ended_at,
    error_told,
    groups,
    in_mib,
    in_time,
    level_names,
    number,
    ours,
    ran,
    wrong,
)
from fame_accel.media.drawing import INK, PALETTE
from fame_accel.media.packages import require
from fame_accel.parity_cases import Verdict

WIDTH = 4.5  # inches of a panel: on a phone its letters keep their size
DPI = 150  # of the PNG
_FONT = 10
_BAR, _GROUP, _PLOT = 0.29, 0.42, 3.2  # inches
_INK = tuple(channel / 255 for channel in INK)
# Okabe and Ito's vermilion, blue and green, and grey for the rest; markers and lines for print without colour
_COLORS = {EAGER: PALETTE[5], OURS: PALETTE[1], FLOOR: PALETTE[2]} | dict.fromkeys(BACKENDS, PALETTE[1])
_STYLES = {EAGER: ("o", "-"), OURS: ("s", "--"), FLOOR: ("^", ":")}
_OTHER = "0.75"

Told = Callable[[float], str]


@dataclass(frozen=True)
class Panel:
    """height: in inches; draw: into a figure or a part of one; alt: the figures that it shows, in words."""

    name: str
    title: str
    height: float
    draw: Callable[[Any], None]
    alt: str


@dataclass(frozen=True)
class Image:
    name: str
    title: str
    alt: str
    svg: bytes


def panels(summary: Summary) -> list[Panel]:
    """What can be drawn of what was measured."""
    names = level_names(summary.rows)
    levels = {names[key]: group for key, group in groups(summary.rows).items()}
    found = []
    for name, title, column, told in (
        ("time", "Time of one layer's attention", "p50_ms", in_time),
        ("memory", "Peak memory of one layer's attention", "peak_mib", in_mib),
    ):
        bars = {level: _measured(group, column) for level, group in levels.items()}
        bars = {level: rows for level, rows in bars.items() if rows}
        if bars:
            draw = partial(_bars, levels=bars, column=column, told=told)
            found.append(Panel(name, title, _height(bars), draw, _bars_alt(title, bars, column, told)))
    cases = {f"{row['height']}x{row['width']}, {row['operation']}" for row in summary.scaling}
    what = f"frames ({cases.pop()})" if len(cases) == 1 else "frames"
    for name, title, column, unit, told in (
        ("scaling_time", "Time over the number of frames", "p50_ms", "ms", in_time),
        ("scaling_memory", "Peak memory over the number of frames", "peak_mib", "MiB", in_mib),
    ):
        lines = _lines(summary.scaling, column)
        if any(len(points) > 1 for points in lines.values()):
            end = ended_at(summary.scaling)
            draw = partial(_over_frames, lines=lines, end=end, unit=unit, what=what, told=told)
            found.append(Panel(name, title, _PLOT, draw, _lines_alt(title, lines, end, told)))
    judged = {level: _judged(group) for level, group in levels.items()}
    judged = {level: rows for level, rows in judged.items() if rows}
    if judged:
        title = "Error against float64, and what is allowed"
        draw = partial(_errors, levels=judged)
        found.append(Panel("parity", title, _height(judged) + 0.5, draw, _errors_alt(title, judged)))
    return found


def write_png(path: str | PathLike[str], summary: Summary) -> None:
    """Draw all panels, two side by side, as one PNG.

    Raises:
        ValueError: there is nothing to draw.
        ImportError: matplotlib is missing.
    """
    drawn = panels(summary)
    if not drawn:
        raise ValueError("no row has a time, a peak or an error: nothing to draw")
    lines = [drawn[start : start + 2] for start in range(0, len(drawn), 2)]
    heights = [max(panel.height for panel in line) + 0.45 for line in lines]
    heading, machine = textwrap.fill(summary.heading, 78), textwrap.fill(summary.machine, 112)
    top = 0.2 + 0.22 * (heading.count("\n") + machine.count("\n") + 2)
    figure = _figure(2 * WIDTH, top + sum(heights))
    grid = figure.add_gridspec(len(lines) + 1, 2, height_ratios=[top, *heights])
    head = figure.add_subfigure(grid[0, :])
    head.text(0.01, 0.9, heading, fontsize=13, fontweight="bold", color=_INK, va="top", parse_math=False)
    below = 0.9 - 0.26 * (heading.count("\n") + 1) / top
    head.text(0.01, below, machine, fontsize=9, color="0.3", va="top", parse_math=False)
    for place, line in enumerate(lines, 1):
        for column, panel in enumerate(line):
            part = figure.add_subfigure(grid[place, column if len(line) > 1 else slice(None)])
            part.suptitle(panel.title, x=0.02, ha="left", fontsize=_FONT + 1, fontweight="bold", color=_INK)
            panel.draw(part)
    figure.savefig(path, format="png", dpi=DPI)


def images(summary: Summary) -> list[Image]:
    """Each panel by itself, WIDTH inches wide and without its title. ImportError where matplotlib is missing."""
    found = []
    for panel in panels(summary):
        figure, file = _figure(WIDTH, panel.height), io.BytesIO()
        panel.draw(figure)
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        found.append(Image(panel.name, panel.title, panel.alt, file.getvalue()))
    return found


def _figure(width: float, height: float) -> Any:
    # a Figure without pyplot draws with Agg and leaves the caller's matplotlib as it is
    return require("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")


def _height(levels: Mapping[str, Sequence[Row]]) -> float:
    return sum(_GROUP + _BAR * len(rows) for rows in levels.values())


def _label(row: Row) -> str:
    return LABELS.get(str(row["provider"]), str(row["provider"]))


def _color(row: Row) -> str:
    return _COLORS.get(str(row["provider"]), _OTHER)


def _measured(group: Group, column: str) -> list[Row]:
    return [row for row in group.values() if ran(row) and number(row, column) is not None]


def _judged(group: Group) -> list[Row]:
    return [
        row for row in group.values()
        if (ran(row) or wrong(row)) and None not in (number(row, "max_error"), number(row, "eager_max_error"))
    ]  # fmt: skip


def _lines(rows: Sequence[Row], column: str) -> dict[str, dict[int, float]]:
    """Values by frames of eager, ours and plain attention."""
    by_frames: dict[int, Group] = {}
    for row in rows:
        by_frames.setdefault(int(number(row, "frames")), {})[str(row["provider"])] = row
    lines: dict[str, dict[int, float]] = {EAGER: {}, OURS: {}, FLOOR: {}}
    for frames, group in sorted(by_frames.items()):
        for name, points in lines.items():
            row = ours(group) if name == OURS else group.get(name)
            value = number(row, column) if row is not None and ran(row) else None
            if value:  # a logarithm takes no 0
                points[frames] = value
    return {name: points for name, points in lines.items() if points}


def _stacked(figure: Any, levels: Mapping[str, Sequence[Row]], **options: Any) -> Any:
    """Axes one below the other, a level each with a line for each provider."""
    ratios = [_GROUP + _BAR * len(rows) for rows in levels.values()]
    stack = figure.subplots(len(levels), 1, squeeze=False, height_ratios=ratios, **options)[:, 0]
    for axes, (level, rows) in zip(stack, levels.items(), strict=True):
        axes.set_title(level, loc="left", fontsize=_FONT, color=_INK, fontweight="bold", parse_math=False)
        axes.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=_FONT, color=_INK, parse_math=False)
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
    return stack


def _bars(figure: Any, levels: Mapping[str, Sequence[Row]], column: str, told: Told) -> None:
    for axes, rows in zip(_stacked(figure, levels), levels.values(), strict=True):
        values = [number(row, column) for row in rows]
        bars = axes.barh(range(len(rows)), values, 0.68, color=[_color(row) for row in rows], edgecolor=_INK, lw=0.6)
        axes.bar_label(bars, [told(value) for value in values], padding=4, fontsize=_FONT, color=_INK)
        axes.set_xlim(0, max(values) * 1.4 or 1)  # room for the label of the longest bar
        axes.set_xticks([])  # the labels say it; each level has its own scale
        axes.spines["bottom"].set_visible(False)
    scales = "; each level has its own scale" if len(levels) > 1 else ""
    axes.set_xlabel(f"less is better{scales}", fontsize=9, color=_INK)


def _over_frames(
    figure: Any, lines: Mapping[str, Mapping[int, float]], end: int | None, unit: str, what: str, told: Told
) -> None:
    ticker = require("matplotlib.ticker")
    axes = figure.subplots()
    for name, points in lines.items():
        marker, line = _STYLES[name]
        axes.plot(
            list(points), list(points.values()), marker=marker, linestyle=line, color=_COLORS[name],
            label=LABELS[name], linewidth=2, markersize=6,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    frames = sorted({number for points in lines.values() for number in points} | ({end} if end else set()))
    span = math.log2(frames[-1] / frames[0])
    axes.set_xlim(frames[0] / 2 ** (0.05 * span), frames[-1] * 2 ** (0.26 * span))  # for the figures at the ends
    low, high = axes.get_ylim()
    low, high = low / 1.1, high * (1 if end is None else 3)  # for the cross
    axes.set_ylim(low, high)
    _label_ends(axes, lines, told)
    if end is not None:
        _cross(axes, end, list(lines.get(EAGER, {}).items())[-1:], left=end >= math.sqrt(frames[0] * frames[-1]))
    axes.set_xticks(frames, [str(number) for number in frames], fontsize=_FONT)
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(axis="y", labelsize=_FONT)
    axes.set_xlabel(what, fontsize=_FONT, color=_INK)
    axes.set_ylabel(unit, fontsize=_FONT, color=_INK)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=_FONT)


def _label_ends(axes: Any, lines: Mapping[str, Mapping[int, float]], told: Told) -> None:
    """The last value of each line at its right, where two are close one above the other."""
    low, high = axes.get_ylim()
    points_per_decade = 72 * 0.65 * _PLOT / math.log10(high / low)
    before: dict[int, float] = {}  # the height of the label below, by frames
    for points in sorted(lines.values(), key=lambda points: list(points.values())[-1]):
        frames, value = list(points.items())[-1]
        height = points_per_decade * math.log10(value)
        placed = max(height, before.get(frames, -math.inf) + _FONT + 3)
        before[frames] = placed
        axes.annotate(
            told(value), (frames, value), xytext=(8, placed - height), textcoords="offset points", va="center",
            fontsize=_FONT, color=_INK,
        )  # fmt: skip


def _cross(axes: Any, end: int, last: Sequence[tuple[int, float]], left: bool) -> None:
    """Eager out of memory at `end` frames: how high the cross stands says nothing, so it stands at the upper edge."""
    top = axes.get_ylim()[1]
    for frames, value in last:
        axes.plot([frames, end], [value, top], color=_COLORS[EAGER], linewidth=1, linestyle=(0, (1, 2)))
    axes.plot([end], [top], marker="X", markersize=11, color=_COLORS[EAGER], markeredgecolor=_INK, clip_on=False)
    axes.annotate(
        "eager: out of memory", (end, top), xytext=(-9 if left else 9, 0), textcoords="offset points",
        ha="right" if left else "left", va="center", fontsize=_FONT, color=_INK, annotation_clip=False,
    )  # fmt: skip


def _errors(figure: Any, levels: Mapping[str, Sequence[Row]]) -> None:
    """Dots on a logarithmic scale, and a line at what is allowed."""
    known = [number(row, "max_error") for rows in levels.values() for row in rows]
    known += [_allowed(row) for rows in levels.values() for row in rows]
    known = [value for value in known if value and math.isfinite(value)]
    low, high = min(known) / 3, max(known) * 3
    stack = _stacked(figure, levels, sharex=True)
    for axes, rows in zip(stack, levels.values(), strict=True):
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.axvspan(low, _allowed(rows[0]), color="0.94", linewidth=0)
        axes.axvline(_allowed(rows[0]), color=_INK, linewidth=1.2, linestyle="--")
        for place, row in enumerate(rows):
            error = number(row, "max_error")
            at = min(max(error, low), high) if math.isfinite(error) else high
            marker, size = ("X", 9) if wrong(row) else ("o", 7)
            color = PALETTE[5] if wrong(row) else _color(row)
            axes.plot(
                [at], [place], marker=marker, markersize=size, color=color, markeredgecolor=_INK, markeredgewidth=0.6,
                clip_on=False,
            )  # fmt: skip
            axes.annotate(
                error_told(row), (1, place), xycoords=axes.get_yaxis_transform(), xytext=(8, 0),
                textcoords="offset points", va="center", fontsize=_FONT, color=_INK,
            )  # fmt: skip
        axes.tick_params(axis="x", labelsize=_FONT, labelbottom=axes is stack[-1])
    stack[-1].set_xlabel("largest error; dashed: allowed; at right: share of it", fontsize=_FONT, color=_INK)


def _allowed(row: Row) -> float:
    eager = number(row, "eager_max_error")
    return Verdict((eager, 0.0), (eager, 0.0)).allowed[0]


def _bars_alt(title: str, levels: Mapping[str, Sequence[Row]], column: str, told: Told) -> str:
    said = [
        f"{level}: " + ", ".join(f"{_label(row)} {told(number(row, column))}" for row in rows)
        for level, rows in levels.items()
    ]
    return f"{title}. {'; '.join(said)}."


def _lines_alt(title: str, lines: Mapping[str, Mapping[int, float]], end: int | None, told: Told) -> str:
    said = [
        f"{LABELS[name]}: " + ", ".join(f"{told(value)} at {frames}" for frames, value in points.items())
        for name, points in lines.items()
    ]
    if end is not None:
        said.append(f"eager is out of memory at {end}")
    return f"{title}. {'; '.join(said)}."


def _errors_alt(title: str, levels: Mapping[str, Sequence[Row]]) -> str:
    said = [
        f"{level}: "
        + ", ".join(f"{_label(row)} {number(row, 'max_error'):.1e}, {error_told(row)}" for row in rows)
        + f", of {_allowed(rows[0]):.1e} allowed"
        for level, rows in levels.items()
    ]
    return f"{title}. {'; '.join(said)}."
