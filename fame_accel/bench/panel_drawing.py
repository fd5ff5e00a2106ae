"""The panels of a bench's charts, each drawn and in words: bars by level, lines over frames, and errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fame_accel.bench.providers import EAGER, FLOOR
from fame_accel.bench.rows import Row
from fame_accel.bench.summary import BACKENDS, LABELS, OURS, allowed, number, wrong
from fame_accel.bench.wording import error_told
from fame_accel.media.drawing import INK, PALETTE
from fame_accel.media.packages import require

FONT = 10
PLOT = 3.2  # inches that lines over frames are high
DARK = tuple(channel / 255 for channel in INK)  # of letters and edges
_BAR, _GROUP = 0.29, 0.42  # inches
# Okabe and Ito's vermilion, blue and green, and grey for the rest; markers and lines for print without colour
_COLORS = {EAGER: PALETTE[5], OURS: PALETTE[1], FLOOR: PALETTE[2]} | dict.fromkeys(BACKENDS, PALETTE[1])
_STYLES = {EAGER: ("o", "-"), OURS: ("s", "--"), FLOOR: ("^", ":")}
_OTHER = "0.75"

Told = Callable[[float], str]


def stack_height(levels: Mapping[str, Sequence[Row]]) -> float:
    """Inches of levels one below the other, as bars and errors are drawn."""
    return sum(_GROUP + _BAR * len(rows) for rows in levels.values())


def draw_bars(figure: Any, levels: Mapping[str, Sequence[Row]], column: str, told: Told) -> None:
    for axes, rows in zip(_stacked(figure, levels), levels.values(), strict=True):
        values = [number(row, column) for row in rows]
        bars = axes.barh(range(len(rows)), values, 0.68, color=[_color(row) for row in rows], edgecolor=DARK, lw=0.6)
        axes.bar_label(bars, [told(value) for value in values], padding=4, fontsize=FONT, color=DARK)
        axes.set_xlim(0, max(values) * 1.4 or 1)  # room for the label of the longest bar
        axes.set_xticks([])  # the labels say it; each level has its own scale
        axes.spines["bottom"].set_visible(False)
    scales = "; each level has its own scale" if len(levels) > 1 else ""
    axes.set_xlabel(f"less is better{scales}", fontsize=9, color=DARK)


def bars_alt(title: str, levels: Mapping[str, Sequence[Row]], column: str, told: Told) -> str:
    said = [
        f"{level}: " + ", ".join(f"{_label(row)} {told(number(row, column))}" for row in rows)
        for level, rows in levels.items()
    ]
    return f"{title}. {'; '.join(said)}."


def draw_lines(
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
    axes.set_xticks(frames, [str(number) for number in frames], fontsize=FONT)
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(axis="y", labelsize=FONT)
    axes.set_xlabel(what, fontsize=FONT, color=DARK)
    axes.set_ylabel(unit, fontsize=FONT, color=DARK)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=FONT)


def lines_alt(title: str, lines: Mapping[str, Mapping[int, float]], end: int | None, told: Told) -> str:
    said = [
        f"{LABELS[name]}: " + ", ".join(f"{told(value)} at {frames}" for frames, value in points.items())
        for name, points in lines.items()
    ]
    if end is not None:
        said.append(f"eager is out of memory at {end}")
    return f"{title}. {'; '.join(said)}."


def draw_errors(figure: Any, levels: Mapping[str, Sequence[Row]]) -> None:
    """Dots on a logarithmic scale, and a line at what is allowed."""
    known = [number(row, "max_error") for rows in levels.values() for row in rows]
    known += [allowed(row) for rows in levels.values() for row in rows]
    known = [value for value in known if value and math.isfinite(value)]
    low, high = min(known) / 3, max(known) * 3
    stack = _stacked(figure, levels, sharex=True)
    for axes, rows in zip(stack, levels.values(), strict=True):
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.axvspan(low, allowed(rows[0]), color="0.94", linewidth=0)
        axes.axvline(allowed(rows[0]), color=DARK, linewidth=1.2, linestyle="--")
        for place, row in enumerate(rows):
            error = number(row, "max_error")
            at = min(max(error, low), high) if math.isfinite(error) else high
            marker, size = ("X", 9) if wrong(row) else ("o", 7)
            color = PALETTE[5] if wrong(row) else _color(row)
            axes.plot(
                [at], [place], marker=marker, markersize=size, color=color, markeredgecolor=DARK, markeredgewidth=0.6,
                clip_on=False,
            )  # fmt: skip
            axes.annotate(
                error_told(row), (1, place), xycoords=axes.get_yaxis_transform(), xytext=(8, 0),
                textcoords="offset points", va="center", fontsize=FONT, color=DARK,
            )  # fmt: skip
        axes.tick_params(axis="x", labelsize=FONT, labelbottom=axes is stack[-1])
    stack[-1].set_xlabel("largest error; dashed: allowed; at right: share of it", fontsize=FONT, color=DARK)


def errors_alt(title: str, levels: Mapping[str, Sequence[Row]]) -> str:
    said = [
        f"{level}: "
        + ", ".join(f"{_label(row)} {number(row, 'max_error'):.1e}, {error_told(row)}" for row in rows)
        + f", of {allowed(rows[0]):.1e} allowed"
        for level, rows in levels.items()
    ]
    return f"{title}. {'; '.join(said)}."


def _stacked(figure: Any, levels: Mapping[str, Sequence[Row]], **options: Any) -> Any:
    """Axes one below the other, a level each with a line for each provider."""
    ratios = [_GROUP + _BAR * len(rows) for rows in levels.values()]
    stack = figure.subplots(len(levels), 1, squeeze=False, height_ratios=ratios, **options)[:, 0]
    for axes, (level, rows) in zip(stack, levels.items(), strict=True):
        axes.set_title(level, loc="left", fontsize=FONT, color=DARK, fontweight="bold", parse_math=False)
        axes.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=FONT, color=DARK, parse_math=False)
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
    return stack


def _label_ends(axes: Any, lines: Mapping[str, Mapping[int, float]], told: Told) -> None:
    """The last value of each line at its right, where two are close one above the other."""
    low, high = axes.get_ylim()
    points_per_decade = 72 * 0.65 * PLOT / math.log10(high / low)
    before: dict[int, float] = {}  # the height of the label below, by frames
    for points in sorted(lines.values(), key=lambda points: list(points.values())[-1]):
        frames, value = list(points.items())[-1]
        height = points_per_decade * math.log10(value)
        placed = max(height, before.get(frames, -math.inf) + FONT + 3)
        before[frames] = placed
        axes.annotate(
            told(value), (frames, value), xytext=(8, placed - height), textcoords="offset points", va="center",
            fontsize=FONT, color=DARK,
        )  # fmt: skip


def _cross(axes: Any, end: int, last: Sequence[tuple[int, float]], left: bool) -> None:
    """Eager out of memory at `end` frames: how high the cross stands says nothing, so it stands at the upper edge."""
    top = axes.get_ylim()[1]
    for frames, value in last:
        axes.plot([frames, end], [value, top], color=_COLORS[EAGER], linewidth=1, linestyle=(0, (1, 2)))
    axes.plot([end], [top], marker="X", markersize=11, color=_COLORS[EAGER], markeredgecolor=DARK, clip_on=False)
    axes.annotate(
        "eager: out of memory", (end, top), xytext=(-9 if left else 9, 0), textcoords="offset points",
        ha="right" if left else "left", va="center", fontsize=FONT, color=DARK, annotation_clip=False,
    )  # fmt: skip


def _label(row: Row) -> str:
    return LABELS.get(str(row["provider"]), str(row["provider"]))


def _color(row: Row) -> str:
    return _COLORS.get(str(row["provider"]), _OTHER)
