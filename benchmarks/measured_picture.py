"""The curves of measured.csv as a picture: time and memory over frames, time over regions and over active pairs.

python -m benchmarks.measured_picture
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.measure import RESULTS
from benchmarks.results_table import CPUS, FRAMES, newest, where
from fame_accel.bench.workload import FAME, REGION_MASK
from fame_accel.media.drawing import INK, PALETTE

PICTURE = RESULTS.with_name("measured.png")
SIDES, REGIONS, SHARES = (8, 16, 24, 32, 48, 64), (1, 2, 4, 8, 16), (50, 60, 70, 80, 90, 95)
# name in the legend, color, marker and line: told apart without color, too
STYLES = {
    "eager": ("eager", PALETTE[5], "o", "-"),
    "ours_sdpa": ("fame-accel", PALETTE[1], "s", "-"),
    "sdpa_plain": ("plain attention", (0.45, 0.45, 0.45), "^", "--"),
    "sdpa_bias": ("dense bias", PALETTE[2], "v", ":"),
    "flex_sorted": ("FlexAttention, sorted", PALETTE[3], "D", "-."),
}
_INK = tuple(channel / 255 for channel in INK)
Point = dict[str, dict[str, str]]


def curve(
    axes: Any, positions: Sequence[float], points: Sequence[Point], provider: str, column: str, scale: float
) -> None:
    """One provider's column over the places where it has one; a cross where it ran out of memory next."""
    name, color, marker, line = STYLES[provider]
    result = [(x, row) for x, point in zip(positions, points, strict=True) if (row := point.get(provider))]
    drawn = [(x, float(row[column]) * scale) for x, row in result if row[column]]
    if not drawn:
        return
    axes.plot(*zip(*drawn, strict=True), color=color, marker=marker, linestyle=line, label=name, markersize=5)
    if ended := [x for x, row in result if row["note"].startswith("out of memory")]:
        axes.plot([drawn[-1][0], ended[0]], [drawn[-1][1], axes.get_ylim()[1]], color=color, linestyle=":", linewidth=1)
        axes.annotate(
            "out of memory", (ended[0], axes.get_ylim()[1]), color=color, ha="right", va="bottom", fontsize=8,
            annotation_clip=False,
        )  # fmt: skip


def panel(axes: Any, title: str, label: str, unit: str, ticks: Sequence[float], scales: str = "log log") -> None:
    """scales: of x and y, "log" or "linear" each."""
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.set_xlabel(label, color=_INK)
    axes.set_ylabel(unit, color=_INK)
    x, y = scales.split()
    if x == "log":
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
    if y == "log":
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.set_ylim(bottom=0)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def main() -> None:
    figure = Figure(figsize=(20, 7.6), dpi=110, layout="constrained")
    rows = figure.subplots(2, 4)
    used: list[dict[str, str]] = []
    for line, operation in zip(rows, (FAME, REGION_MASK), strict=True):
        points = [newest(f"sd15-32x32-f{number}", operation.name, "eager", device=CPUS[1]) for number in FRAMES]
        used += [row for point in points for row in point.values()]
        for axes, column, scale, title, unit in (
            (line[0], "p50_ms", 1e-3, f"{operation.name}: time", "seconds"),
            (line[1], "peak_mib", 1 / 1024, f"{operation.name}: peak memory", "GiB"),
        ):
            for provider in ("sdpa_plain", "ours_sdpa", "eager"):
                curve(axes, FRAMES, points, provider, column, scale)
            panel(axes, title, "frames of 32x32 tokens", unit, FRAMES)
    points = [newest(f"sd15-{side}x{side}-f2", FAME.name, "eager", device=CPUS[1]) for side in SIDES]
    for provider in ("sdpa_plain", "ours_sdpa", "eager"):
        curve(rows[0][2], SIDES, points, provider, "p50_ms", 1)
    panel(rows[0][2], "fame: time over resolution, 2 frames", "tokens a side", "milliseconds", SIDES)
    for axes, operation in ((rows[0][3], FAME), (rows[1][3], REGION_MASK)):
        points = [newest(f"sd15-32x32-f4-regions{number}", operation.name, device=CPUS[1]) for number in REGIONS]
        for provider in ("sdpa_plain", "ours_sdpa"):
            curve(axes, REGIONS, points, provider, "p50_ms", 1)
        title = f"{operation.name}: time over regions, 4 frames"
        panel(axes, title, "regions of equal area", "milliseconds", REGIONS, "log linear")
    points = [newest(f"sd15-32x32-f4-areas{share}", REGION_MASK.name, device=CPUS[1]) for share in SHARES]
    active = [100 * float(point["ours_sdpa"]["active_fraction"]) for point in points]
    for provider in ("sdpa_plain", "ours_sdpa", "sdpa_bias", "flex_sorted"):
        curve(rows[1][2], active, points, provider, "p50_ms", 1)
    ticks = [50, 60, 70, 80, 90]
    title = "region_mask_decay: time over active pairs, 4 frames"
    panel(rows[1][2], title, "% of pairs", "milliseconds", ticks, "linear linear")
    figure.suptitle(f"float32, 8 heads, head_dim 40; {where(used)}", fontsize=9, color=_INK)
    figure.savefig(PICTURE, format="png")


if __name__ == "__main__":
    main()
