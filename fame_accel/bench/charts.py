"""The charts of a bench: time and memory by level and over frames, and errors. As one PNG, or each as SVG."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any

from fame_accel.bench.panel_drawing import (
    DARK,
    FONT,
    PLOT,
    bars_alt,
    draw_bars,
    draw_errors,
    draw_lines,
    errors_alt,
    lines_alt,
    stack_height,
)
from fame_accel.bench.providers import EAGER, FLOOR
from fame_accel.bench.rows import Row
from fame_accel.bench.summary import (
    OURS,
    Group,
    Summary,
    ended_at,
    groups,
    level_names,
    number,
    operation_told,
    ours,
    ran,
    wrong,
)
from fame_accel.bench.wording import in_mib, in_time
from fame_accel.media.packages import require

WIDTH = 4.5  # inches of a panel: on a phone its letters keep their size
DPI = 150  # of the PNG


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
            draw = partial(draw_bars, levels=bars, column=column, told=told)
            found.append(Panel(name, title, stack_height(bars), draw, bars_alt(title, bars, column, told)))
    cases = {f"{row['height']}x{row['width']}, {operation_told(str(row['operation']))}" for row in summary.scaling}
    what = f"frames ({cases.pop()})" if len(cases) == 1 else "frames"
    for name, title, column, unit, told in (
        ("scaling_time", "Time over the number of frames", "p50_ms", "ms", in_time),
        ("scaling_memory", "Peak memory over the number of frames", "peak_mib", "MiB", in_mib),
    ):
        lines = _lines(summary.scaling, column)
        if any(len(points) > 1 for points in lines.values()):
            end = ended_at(summary.scaling)
            draw = partial(draw_lines, lines=lines, end=end, unit=unit, what=what, told=told)
            found.append(Panel(name, title, PLOT, draw, lines_alt(title, lines, end, told)))
    judged = {level: _judged(group) for level, group in levels.items()}
    judged = {level: rows for level, rows in judged.items() if rows}
    if judged:
        title = "Error against float64, and what is allowed"
        draw = partial(draw_errors, levels=judged)
        found.append(Panel("parity", title, stack_height(judged) + 0.5, draw, errors_alt(title, judged)))
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
    head.text(0.01, 0.9, heading, fontsize=13, fontweight="bold", color=DARK, va="top", parse_math=False)
    below = 0.9 - 0.26 * (heading.count("\n") + 1) / top
    head.text(0.01, below, machine, fontsize=9, color="0.3", va="top", parse_math=False)
    for place, line in enumerate(lines, 1):
        for column, panel in enumerate(line):
            part = figure.add_subfigure(grid[place, column if len(line) > 1 else slice(None)])
            part.suptitle(panel.title, x=0.02, ha="left", fontsize=FONT + 1, fontweight="bold", color=DARK)
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
