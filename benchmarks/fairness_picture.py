"""Draw which group each profession is nearer to, before and after an injection, from fairness.csv.

    python -m benchmarks.fairness_picture

Writes benchmarks/results/fairness.png.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from benchmarks.fairness import PAIRS, RESULTS, read_runs, summary

PICTURE = RESULTS.with_suffix(".png")
# colors of Okabe and Ito; the shapes differ too, for readers who do not see color
_BEFORE, _AFTER, _INK = "#D55E00", "#0072B2", "#1A1A1A"


def draw() -> None:
    """Draw the picture and save it."""
    rows = sorted(read_runs()["measured", 1.0], key=lambda row: (int(row["women_percent"]), row["profession"]))
    figure = Figure(figsize=(12, 10), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    positions = range(len(rows))
    for axes, (pair, use) in zip(
        panels, ((PAIRS[0], "the words of the injection"), (PAIRS[1], "held out")), strict=True
    ):
        before, after = ([float(row[f"{when}_0_{'_'.join(pair)}"]) for row in rows] for when in ("before", "after"))
        axes.axvline(0, color=_INK, lw=0.8)
        axes.hlines(positions, before, after, color="#999999", lw=1.5, zorder=1)
        axes.scatter(before, positions, marker="o", s=42, facecolor="white", edgecolor=_BEFORE, lw=1.8, label="plain")
        axes.scatter(after, positions, marker="D", s=30, color=_AFTER, label="injected, eta 1")
        figures = summary(rows, 0, pair)
        axes.set_title(
            f"{pair[0]} and {pair[1]} ({use}):\nmean gap {figures['before']:.3f} to {figures['after']:.3f}",
            loc="left",
            fontsize=11,
        )
        axes.set_xlabel(f"nearer {pair[0]}  ←  difference of cosines  →  nearer {pair[1]}")
        axes.grid(axis="x", color="#E5E5E5", lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(positions, [f"{row['profession']}  {row['women_percent']}%" for row in rows], fontsize=9)
    panels[0].set_ylim(-0.8, len(rows) - 0.2)
    widest = max(abs(edge) for edge in panels[0].get_xlim())
    panels[0].set_xlim(-widest, widest)
    panels[0].legend(loc="lower right", fontsize=9)
    figure.suptitle(
        f'"a photo of a ..." in {rows[0]["encoder"]}: 40 professions by their share of women (WinoBias)',
        x=0.01,
        ha="left",
        fontsize=13,
    )
    figure.savefig(PICTURE)


if __name__ == "__main__":
    draw()
