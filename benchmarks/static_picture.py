"""Draw the static budget from static.json, and the predicted times from predictions.csv: benchmarks/results/static.png.

python -m benchmarks.static_picture
"""

from __future__ import annotations

import csv

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from benchmarks.budget import BUDGETS, HEAD_DIMS, RESULTS, read_counts
from benchmarks.predict import PREDICTIONS

PICTURE = RESULTS.with_suffix(".png")
_COLORS = ("#33658a", "#86bbd8", "#758e4f", "#f6ae2d", "#f26419")


def draw() -> None:
    """Write the picture."""
    counts = read_counts()
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(17, 4.8), layout="constrained", width_ratios=(1, 1, 1.1)
    )
    for axes, target, chip in ((left, "sm_80", "A100"), (middle, "sm_90", "H100")):
        width = 0.8 / len(BUDGETS)
        for index, budget in enumerate(BUDGETS):
            centers = [group + (index - (len(BUDGETS) - 1) / 2) * width for group in range(len(HEAD_DIMS))]
            heights = [budget.ratio(counts, target, dim) for dim in HEAD_DIMS]
            axes.bar(centers, heights, width, color=_COLORS[index], label=f"{budget.label} (at most {budget.most:.2f})")
            axes.hlines(
                [budget.most] * len(HEAD_DIMS),
                [center - width / 2 for center in centers],
                [center + width / 2 for center in centers],
                "black",
                lw=1,
            )
        axes.axhline(1, color="gray", lw=0.8, ls=":")
        axes.set_xticks(range(len(HEAD_DIMS)), HEAD_DIMS)
        axes.set_xlabel("head_dim")
        axes.set_title(f"main loop, instructions / plain flash attention ({target}, {chip})", fontsize=10)
        axes.set_ylim(0, 2.0)
    left.legend(fontsize=7, loc="upper right")
    with PREDICTIONS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["chip"] == "H100" and row["keys"] not in ("77", "512")]
    for index, operation in enumerate(("region_mask_decay", "fame", "videograin", "fame_strength")):
        shown = [row for row in rows if row["operation"] == operation and row["heads"] == "8" and row["size"] == "64"]
        right.plot(
            [int(row["frames"]) for row in shown],
            [float(row["predicted_ms"]) for row in shown],
            "o-",
            color=_COLORS[index],
            label=operation,
        )
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    right.set_xticks([8, 16, 32], [8, 16, 32])
    right.set_xlabel("frames")
    right.set_ylabel("ms")
    right.set_title(
        "PREDICTED, not measured: one SD 1.5 layer, 64 x 64 tokens a frame,\n2 x 8 heads of 40, float16, H100",
        fontsize=10,
    )
    right.legend(fontsize=8)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    draw()
