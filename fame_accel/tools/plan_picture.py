"""A picture of a tile plan: which pairs of tiles are computed, and how."""

from __future__ import annotations

from os import PathLike

import torch

from fame_accel.core.tiles import TilePlan
from fame_accel.media.packages import require

# safe for color-blind readers: excluded, different region, same region
_COLORS = ((1.0, 1.0, 1.0), (0.90, 0.62, 0.0), (0.0, 0.45, 0.70))


def plan_image(plan: TilePlan, item: int = 0) -> torch.Tensor:
    """The pairs of tiles of one batch item as an image, tiles in the order of the plan's positions.

    Returns:
        float32 [query tiles, key tiles, 3] in [0, 1]: white for excluded pairs, blue for the same region, orange for
        different regions, paler for a lower bias. Key tiles that no query attends to are left out.
    """
    tiles = plan.tiles[item].cpu()
    tiles = tiles[tiles[:, 1] > 0]
    tiles = tiles[tiles[:, 0].argsort()]
    spans, values = plan.pair_span.cpu(), plan.pair_value.cpu()
    used = torch.zeros(len(spans), dtype=torch.bool)
    for first, last in tiles[:, [2, -1]].unique(dim=0).tolist():
        used[first:last] = True
    starts = spans[used, 0].unique()
    image = torch.ones(len(tiles), len(starts), 3)
    for row, (first, *ends) in enumerate(tiles[:, 2:].tolist()):
        last = ends[-1]
        # in each list the same region comes before others: of full tiles, then of short ones
        kind = torch.bucketize(torch.arange(first, last), torch.tensor(ends[:-1]), right=True)
        column = torch.searchsorted(starts, spans[first:last, 0].contiguous())
        color = torch.tensor(_COLORS)[2 - kind % 2]
        shade = (0.25 + 0.75 * torch.exp2(values[first:last, 1]).clamp(max=1))[:, None]
        image[row, column] = 1 - shade * (1 - color)
    return image


def plot_plans(path: str | PathLike[str], plans: dict[str, TilePlan]) -> None:
    """Write a picture of several plans side by side.

    Args:
        path: the file; its ending names the format.
        plans: the plans by their captions.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure_module, patches = require("matplotlib.figure"), require("matplotlib.patches")
    figure = figure_module.Figure(figsize=(5.2 * len(plans), 5.8), layout="constrained")
    for axes, (name, plan) in zip(figure.subplots(1, len(plans), squeeze=False)[0], plans.items(), strict=True):
        image = plan_image(plan)
        computed = (image != 1).any(-1).float().mean().item()
        axes.imshow(image.numpy(), interpolation="nearest", aspect="auto")
        axes.set_title(f"{name}\n{image.shape[0]} x {image.shape[1]} tiles, {computed:.0%} computed", fontsize=11)
        axes.set_xlabel(f"key tiles of {plan.block_k}")
        axes.set_ylabel(f"query tiles of {plan.block_q}")
    labels = ("excluded", "different region", "same region")
    handles = [patches.Patch(facecolor=c, edgecolor="0.6", label=n) for c, n in zip(_COLORS, labels, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)
