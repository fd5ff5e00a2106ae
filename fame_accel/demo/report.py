"""The results of the demo: pictures, report.json and a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fame_accel.core.layout import SpaceTimeLayout
from fame_accel.core.limits import VAE_SCALE_FACTOR
from fame_accel.core.modulation import Modulation
from fame_accel.core.tables import merge_frames
from fame_accel.core.tiles import tile_plan
from fame_accel.media.charts import comparison_chart
from fame_accel.media.pictures import mask_overlay, side_by_side_gif
from fame_accel.tools.plan_picture import plot_plans

FPS = 7.5
FILES = ("side_by_side.gif", "mask_overlay.png", "tile_plan.png", "report.json", "comparison.png")
FORMATS = {
    "backend": "{}", "attention_s": "{:.2f}", "step_s": "{:.2f}", "peak_mib": "{:.1f}", "latent_error": "{:.1e}",
    "latent_error_mean": "{:.1e}", "passed": "{}",
}  # fmt: skip


def write_report(
    out: Path,
    report: Mapping[str, Any],
    rows: list[dict[str, Any]],
    clip: Tensor,
    masks: Tensor,
    regions: Sequence[str],
    edited: Mapping[str, Tensor],
) -> list[str]:
    """Write pictures and report.json.

    Args:
        out: folder to write to.
        report: contents of report.json.
        rows: of the table, the eager backend's first.
        clip: uint8 [F, H, W, 3].
        masks: bool [R, F, H, W] of the regions.
        regions: their names.
        edited: the edited clip, like `clip`, by backend, the eager one's first.

    Returns:
        The names of the files.
    """
    title = "edited (random weights)" if report["weights"] == "random" else "edited"
    pictures = {"source": clip} | {f"{title}, {name}": frames for name, frames in edited.items()}
    eager, fused = edited.values()
    difference = (fused.int() - eager.int()).abs()
    amplified = (difference * 64).clamp(max=255).to(torch.uint8)
    pictures[f"difference x 64 (at most {difference.max().item()}/255)"] = amplified
    side_by_side_gif(out / "side_by_side.gif", pictures, FPS)
    mask_overlay(out / "mask_overlay.png", clip, masks, regions)
    _draw_plans(out / "tile_plan.png", masks)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    names = list(FILES[:4])
    if all(row["peak_mib"] is not None for row in rows):
        comparison_chart(out / "comparison.png", rows)
        names.append("comparison.png")
    return names


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the row of the eager and that of the fused backend, and how much faster the latter was."""
    lines = [list(FORMATS), *([_cell(column, row[column]) for column in FORMATS] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(FORMATS))]
    lines.insert(1, ["-" * width for width in widths])
    print()
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    eager, fused = rows
    attention, step = (_compare(eager[column], fused[column]) for column in ("attention_s", "step_s"))
    print(
        f"\nOne run each, per step: {fused['backend']} was {attention} than eager in attention layers, {step} overall. "
        "Errors are those of the final latents against float64."
    )


def _draw_plans(path: Path, masks: Tensor) -> None:
    """Draw the tile plans of two modulations at the resolution of the latents."""
    layout = SpaceTimeLayout.from_masks(masks)
    tokens = layout.tokens(masks.shape[2] // VAE_SCALE_FACTOR, masks.shape[3] // VAE_SCALE_FACTOR)
    frames = layout.num_frames
    modulations = {"FAME": Modulation.fame(frames), "hard mask with decay": Modulation.region_mask(frames, decay=0.1)}
    plot_plans(path, {
        name: tile_plan(tokens, tokens, merge_frames(modulation, frames, frames), 128, 64)
        for name, modulation in modulations.items()
    })  # fmt: skip


def _compare(eager: float, fused: float) -> str:
    return f"{eager / fused:.1f}x faster" if fused <= eager else f"{fused / eager:.1f}x slower"


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return FORMATS[column].format(value)
