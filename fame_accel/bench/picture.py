"""The picture of a bench: time and peak memory of one layer, at each level and over the number of frames."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from fame_accel.bench.providers import EAGER, FLOOR
from fame_accel.bench.report import Report, label, operation_name, table
from fame_accel.media.drawing import PALETTE
from fame_accel.media.packages import require

if TYPE_CHECKING:
    from pandas import DataFrame

# color, marker and line: told apart without color, too
_STYLES = {EAGER: (PALETTE[5], "o", "-"), FLOOR: (PALETTE[2], "^", ":")}
_OURS = (PALETTE[1], "s", "--")
_FIGURES = (("p50_ms", "time (ms)"), ("peak_mib", "peak memory (MiB)"))
_DPI = 150


def draw(report: Report, form: str) -> bytes:
    """Draw the panels that have figures, one below the other.

    Args:
        report: a run of the bench.
        form: "png" or "svg".

    Returns:
        The file's content.

    Raises:
        ValueError: nothing was timed.
        ImportError: pandas or matplotlib is missing.
    """
    levels, scaling = (data[data["ran"]] for data in (table(report.rows), table(report.scaling)))
    if levels.empty:
        raise ValueError("no row has a time: there is nothing to draw")
    panels = [(_draw_levels, levels, *figure) for figure in _FIGURES]
    if scaling["frames"].nunique() > 1:
        panels += [(_draw_frames, scaling, *figure) for figure in _FIGURES]
    panels = [panel for panel in panels if panel[1][panel[2]].gt(0).any()]
    # a Figure without pyplot leaves the caller's matplotlib as it is
    figure = require("matplotlib.figure", "bench").Figure(figsize=(6, 3.2 * len(panels)), layout="constrained")
    all_axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, (function, data, column, unit) in zip(all_axes, panels, strict=True):
        function(axes, data[data[column] > 0], column)
        axes.set_yscale("log")
        axes.set_ylabel(unit)
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(report.heading, fontsize=10, parse_math=False)
    file = io.BytesIO()
    # without the date, so that equal reports are equal files
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type")) if form == "svg" else None
    figure.savefig(file, format=form, dpi=_DPI, metadata=metadata)
    return file.getvalue()


def _draw_levels(axes: Any, data: DataFrame, column: str) -> None:
    """A group of bars for each level and operation, a bar for each provider."""
    names = data["shape"] + "\n" + data["operation"].map(operation_name).str.replace(" to ", "\nto ")
    levels, providers = list(names.unique()), list(data["provider"].unique())
    for index, provider in enumerate(providers):
        own = data["provider"] == provider
        left = [levels.index(name) + (index - (len(providers) - 1) / 2) * 0.8 / len(providers) for name in names[own]]
        color = _STYLES.get(provider, _OURS)[0]
        axes.bar(left, data[column][own], 0.8 / len(providers), color=color, label=label(provider))
    axes.set_xticks(range(len(levels)), levels, fontsize=6, parse_math=False)


def _draw_frames(axes: Any, data: DataFrame, column: str) -> None:
    """A line over the number of frames for each provider."""
    for provider, line in data.groupby("provider", sort=False):
        color, marker, style = _STYLES.get(provider, _OURS)
        axes.plot(
            line["frames"], line[column], color=color, marker=marker, linestyle=style, label=label(provider)
        )  # fmt: skip
    frames = sorted(data["frames"].unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(frames, [str(number) for number in frames])
    axes.minorticks_off()
    axes.set_xlabel("frames, finest level")
