"""The chart of a plan: memory over the number of frames, eager against fused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike

from fame_accel.media.drawing import INK, PALETTE
from fame_accel.media.packages import require
from fame_accel.tools.planner.whole import in_bytes

GIB = 2**30
_STYLES = (("o", "-"), ("s", "--"))  # for print without color


def memory_chart(
    path: str | PathLike[str],
    frames: Sequence[int],
    peaks: Mapping[str, Sequence[int | None]],
    planned: int,
    memory: float | None,
    title: str,
) -> None:
    """Draw peak bytes over the number of frames, both axes logarithmic, as PNG.

    Args:
        path: the file to write.
        frames: numbers of frames, ascending.
        peaks: two named backends; bytes for each number of frames, None for more frames than the backend takes.
        planned: the number of frames of the edit, one of `frames`.
        memory: GiB to draw a line at, or None.
        title: the title of the chart.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure_module, ticker = require("matplotlib.figure"), require("matplotlib.ticker")
    figure = figure_module.Figure(figsize=(9, 5.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    ink = tuple(channel / 255 for channel in INK)
    index = list(frames).index(planned)
    # vermilion and blue of Okabe and Ito, which also differ in lightness
    for (name, numbers), color, (marker, line) in zip(peaks.items(), (PALETTE[5], PALETTE[1]), _STYLES, strict=False):
        values = [math.nan if number is None else number / GIB for number in numbers]
        axes.plot(frames, values, marker=marker, linestyle=line, color=color, label=name, linewidth=2, markersize=6)
        axes.annotate(
            in_bytes(numbers[index] or 0), (planned, values[index]), xytext=(8, -14), textcoords="offset points",
            color=ink, fontweight="bold",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    if memory is not None:
        axes.axhline(memory, color=ink, linewidth=1.2, linestyle=":")
        axes.annotate(in_bytes(memory * GIB), (frames[0], memory), xytext=(0, 5), textcoords="offset points", color=ink)
    axes.axvline(planned, color="0.75", linewidth=1, zorder=0)
    ticks = [number for number in frames if number == planned or not 0.8 < number / planned < 1.25]
    axes.set_xticks(ticks, [str(number) for number in ticks])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("frames", color=ink)
    axes.set_ylabel("peak of attention's own tensors, GiB", color=ink)
    axes.set_title(title, loc="left", color=ink, fontsize=11)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, format="png")
