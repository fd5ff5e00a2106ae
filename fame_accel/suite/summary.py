"""Summary of a results.csv: a table of figures, and a chart of the outcomes by profession."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike

from fame_accel.evaluate.parity import ARMS, PLAIN, TARGETS, JudgedEdit, Parity, Share, parity
from fame_accel.media.packages import require

# Okabe and Ito's colors, which color-blind readers can tell apart; hatches, for print without color.
OUTCOMES = {
    "woman": ("classified as a woman", "#0072B2", ""),
    "man": ("classified as a man", "#E69F00", ""),
    "tie": ("equally often one and the other", "#999999", "//"),
    "none": ("no face found", "#FFFFFF", ".."),
}
MARK = "#1A1A1A"
REAL = "real share of women (WinoBias)"


def suite_parity(rows: Sequence[dict[str, str]]) -> Parity:
    """Compute the fairness figures of the rows of a results.csv; ValueError without rows or for an invalid cell."""
    real = {row["profession"]: float(row["winobias_share_of_women"]) for row in rows}
    return parity([JudgedEdit(row["profession"], row["target"], row["outcome"]) for row in rows], real)


def suite_table(rows: Sequence[dict[str, str]]) -> str:
    """Lay out the figures of a results.csv as text.

    Counts and means come first, in a column for the plain edits and one for each target; then the fairness figures,
    with 95% intervals. Raises ValueError without rows or for an invalid cell.
    """
    fairness = suite_parity(rows)
    arms = {target: [row for row in rows if row["target"] == target] for target in ARMS}
    counts = (
        ("edits", [fairness.arms[target].edits for target in ARMS]),
        ("  without a face", [fairness.arms[target].no_face for target in ARMS]),
        ("  equally often classified one and the other", [fairness.arms[target].ties for target in ARMS]),
        (
            "  with a face in less than half of the frames",
            [sum(0 < float(row["face_share"]) < 0.5 for row in arm) for arm in arms.values()],
        ),
    )
    means = (
        ("mean PSNR outside the region, dB", "psnr_db", 1, 2),
        ("mean SSIM outside the region", "ssim", 1, 4),
        ("mean warp error x 1000", "warp_error", 1000, 4),
        ("  of the source", "source_warp_error", 1000, 4),
        ("mean seconds an edit", "seconds", 1, 2),
    )
    columns = [("target", list(ARMS))]
    columns += [(title, [str(number) for number in numbers]) for title, numbers in counts]
    columns += [
        (title, [_number(_mean(arm, column, factor), digits) for arm in arms.values()])
        for title, column, factor, digits in means
    ]
    decided = sum(share.total > 0 for share in fairness.women.values())
    lines = [
        ("plain, classified as a woman", _share(fairness.arms[PLAIN].women)),
        ("  professions with a decided edit", str(decided)),
        ("  parity gap, mean over them of |share of women - 0.5|", _number(fairness.parity_gap, 3)),
        ("    expected if a fair coin decided", _number(fairness.chance_parity_gap, 3)),
        ("    of the real shares (WinoBias)", _number(fairness.real_parity_gap, 3)),
        ("  mean distance of a profession's share from the real one", _number(fairness.real_difference, 3)),
        ("  correlation of the two", _number(fairness.real_correlation, 3)),
        *((f"asked for a {target}, classified so", _share(fairness.hits[target])) for target in TARGETS),
        ("  gap between the two", _number(fairness.hit_gap, 3)),
    ]
    width = max(len(title) for title, _ in [*columns, *lines])
    cell = max(len(text) for _, cells in columns for text in cells)
    upper = [f"{title.ljust(width)}  {'  '.join(text.rjust(cell) for text in cells)}" for title, cells in columns]
    return "\n".join([*upper, "", *(f"{title.ljust(width)}  {value}" for title, value in lines)])


def suite_chart(path: str | PathLike[str], rows: Sequence[dict[str, str]]) -> None:
    """Draw the outcomes of each profession's edits as a PNG file.

    Three panels show the plain edits, with the real share of women, and the edits that asked for a woman and for a man.
    Professions are sorted by their real share of women, the smallest at the bottom. A profession without such edits has
    no bar.

    Raises:
        ValueError: there are no rows, or a cell is invalid.
        ImportError: matplotlib is missing.
    """
    if not rows:
        raise ValueError("rows must hold at least one edit")
    real = {row["profession"]: float(row["winobias_share_of_women"]) for row in rows}
    professions = sorted(real, key=lambda name: (real[name], name))
    titles = {PLAIN: "plain, no gender asked for"} | {target: f"asked for a {target}" for target in TARGETS}
    # Without pyplot, the figure is drawn with Agg and the caller's matplotlib stays as it is.
    figure = require("matplotlib.figure", extra="evaluate").Figure(
        figsize=(11, 2.2 + 0.26 * len(professions)), dpi=110, layout="constrained"
    )
    shown = {}
    for axes, (target, title) in zip(figure.subplots(1, len(titles), sharey=True), titles.items(), strict=True):
        part = [row for row in rows if row["target"] == target]
        left = [0.0] * len(professions)
        for outcome, (label, color, hatch) in OUTCOMES.items():
            widths = [_outcome_share(part, profession, outcome) for profession in professions]
            if bars := [index for index, width in enumerate(widths) if width]:  # a bar of no width would show its edge
                shown[label] = axes.barh(
                    bars, [widths[index] for index in bars], left=[left[index] for index in bars], color=color,
                    hatch=hatch, height=0.74, edgecolor="white" if not hatch else "#666666", linewidth=0.5,
                )  # fmt: skip
            left = [start + width for start, width in zip(left, widths, strict=True)]
        if target == PLAIN:
            shown[REAL] = axes.scatter(
                [real[name] for name in professions], range(len(professions)),
                marker="D", s=22, color=MARK, edgecolors="white", linewidths=0.8, zorder=3,
            )  # fmt: skip
            shown["parity"] = axes.axvline(0.5, color=MARK, linewidth=1, linestyle="--", zorder=2)
            axes.set_xlabel("share of the profession's edits")
        axes.set_title(f"{title} ({len(part)})", fontsize=11)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "50%", "100%"])
        axes.set_yticks(range(len(professions)), professions)
        axes.tick_params(length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_ylim(-0.6, len(professions) - 0.4)
    figure.suptitle("Perceived gender of the edits, by one classifier", fontsize=13)
    labels = [label for label in (*(label for label, _, _ in OUTCOMES.values()), REAL, "parity") if label in shown]
    figure.legend([shown[label] for label in labels], labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, format="png")


def _outcome_share(rows: Sequence[dict[str, str]], profession: str, outcome: str) -> float:
    outcomes = [row["outcome"] for row in rows if row["profession"] == profession]
    return outcomes.count(outcome) / len(outcomes) if outcomes else 0.0


def _share(share: Share) -> str:
    if share.value is None or share.interval is None:
        return "n/a (none decided)"
    low, high = share.interval
    return f"{share.value:.1%} ({share.hits} of {share.total}; 95% interval {low:.1%} to {high:.1%})"


def _mean(rows: Sequence[dict[str, str]], column: str, factor: float) -> float | None:
    values = [factor * float(row[column]) for row in rows if row[column]]
    return sum(values) / len(values) if values else None


def _number(value: float | None, digits: int) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.{digits}f}"
