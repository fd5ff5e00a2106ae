"""A chart that compares backends."""

import math
from os import PathLike
from typing import Any

from fame_accel.media.drawing import INK, PALETTE
from fame_accel.media.packages import require


def comparison_chart(path: str | PathLike[str], rows: list[dict[str, Any]]) -> None:
    """Draw a PNG with the attention time, step time and peak memory of each backend as horizontal bars.

    Args:
        path: the file to write.
        rows: one per backend, drawn from top to bottom: ``{"backend": str, "attention_s": float, "step_s": float,
            "peak_mib": float}``, times in seconds and memory in MiB.

    Raises:
        ValueError: there are no rows, a key is missing, or a value is negative or not finite.
        ImportError: matplotlib is missing.
    """
    panels = {"attention_s": "attention", "step_s": "whole step", "peak_mib": "peak memory"}
    required = {"backend", *panels}
    if not rows:
        raise ValueError("rows must have at least one backend")
    for row in rows:
        missing = required - row.keys()
        if missing:
            raise ValueError(f"rows must have the keys {sorted(required)}, but {sorted(missing)} are missing in {row}")
        if not all(0 <= row[key] < float("inf") for key in panels):
            raise ValueError(f"the times and memory of a row must be finite and not negative: {row}")
    # a Figure made without pyplot draws with Agg and does not change the caller's matplotlib
    figure_module = require("matplotlib.figure")
    figure = figure_module.Figure(figsize=(11, 1.3 + 0.5 * len(rows)), dpi=120, layout="constrained")

    ink = tuple(channel / 255 for channel in INK)
    colors = [PALETTE[index % len(PALETTE)] for index in range(len(rows))]
    positions = range(len(rows))
    for axes, (key, title) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        largest = max(row[key] for row in rows)
        factor, unit = _unit(key, largest)
        widths = [row[key] * factor for row in rows]
        bars = axes.barh(positions, widths, color=colors, edgecolor=ink, linewidth=0.6, height=0.65)
        axes.bar_label(bars, [f"{_three_digits(width)} {unit}" for width in widths], padding=4, color=ink)
        axes.set_xlim(0, max(widths) * 1.35 or 1)  # room for the label of the longest bar
        axes.set_title(title, loc="left", color=ink, fontweight="bold")
        axes.set_xlabel(f"{unit}, less is better", color=ink)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_yticks(positions, [row["backend"] for row in rows])
    axes.invert_yaxis()  # shared by all panels
    figure.savefig(path, format="png")


def _unit(key: str, value: float) -> tuple[float, str]:
    """Return the factor and name of the unit in which to show a value of MiB or seconds."""
    if key == "peak_mib":
        return (1 / 1024, "GiB") if value >= 10 * 1024 else (1, "MiB")
    if value >= 1:
        return 1, "s"
    return (1e3, "ms") if value >= 1e-3 else (1e6, "µs")


def _three_digits(value: float) -> str:
    """Format a value with three significant digits, without an exponent."""
    decimals = 2 - math.floor(math.log10(value)) if value else 0
    return f"{value:.{max(decimals, 0)}f}"
