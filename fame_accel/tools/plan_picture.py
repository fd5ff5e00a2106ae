"""A picture of a tile plan: which pairs of tiles are computed, and as what."""

from __future__ import annotations

from os import PathLike

import torch

from fame_accel.core.planning import TilePlan

# colour-blind safe: excluded, different region, same region
_COLOURS = ((1.0, 1.0, 1.0), (0.90, 0.62, 0.0), (0.0, 0.45, 0.70))


def plan_image(plan: TilePlan, item: int = 0) -> torch.Tensor:
    """float32 [query tiles, key tiles, 3] in [0, 1]: white excluded, blue same region, orange different region,
    paler the lower the bias. Key tiles in the order of the tokens.

    Tiles of a plan without strength do not know whether they share a region: all computed ones are blue.
    """
    tiles = plan.tiles[item].cpu()
    tiles = tiles[tiles[:, 1] > 0]
    spans, values = plan.pair_span.cpu(), plan.pair_value.cpu()
    used = torch.zeros(len(spans), dtype=torch.bool)
    for first, last in tiles[:, [2, -1]].unique(dim=0).tolist():
        used[first:last] = True
    starts = spans[used, 0].unique()
    image = torch.ones(len(tiles), len(starts), 3)
    for row, (first, last) in enumerate(tiles[:, [2, -1]].tolist()):
        column = torch.searchsorted(starts, spans[first:last, 0].contiguous())
        strength, bias = values[first:last].unbind(1)
        colour = torch.tensor(_COLOURS)[torch.where(strength < 0, 1, 2)]
        shade = (0.25 + 0.75 * torch.exp2(bias).clamp(max=1))[:, None]
        image[row, column] = 1 - shade * (1 - colour)
    return image


def plot_plans(path: str | PathLike[str], plans: dict[str, TilePlan]) -> None:
    """Write a picture (the ending names the format) of several plans side by side, captioned with their names."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise ImportError("plotting a plan needs matplotlib: pip install 'fame-accel[demo]'") from error
    figure = Figure(figsize=(5.2 * len(plans), 5.8), layout="constrained")
    for axes, (name, plan) in zip(figure.subplots(1, len(plans), squeeze=False)[0], plans.items(), strict=True):
        image = plan_image(plan)
        computed = (image != 1).any(-1).float().mean().item()
        axes.imshow(image.numpy(), interpolation="nearest", aspect="auto")
        axes.set_title(f"{name}\n{image.shape[0]} x {image.shape[1]} tiles, {computed:.0%} computed", fontsize=11)
        axes.set_xlabel(f"key tiles of {plan.block_k}")
        axes.set_ylabel(f"query tiles of {plan.block_q}")
    labels = ("excluded", "different region", "same region")
    handles = [Patch(facecolor=c, edgecolor="0.6", label=n) for c, n in zip(_COLOURS, labels, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)
