"""How many tokens of each frame lie in which regions: assumed, or counted in masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fame_accel.core.layout import SpaceTimeLayout
from fame_accel.core.limits import MAX_REGIONS


@dataclass(frozen=True)
class Areas:
    """How many tokens are in which regions.

    bitsets: int64 [S], the region sets, ascending.
    tokens: int64 [F, S], how many of a frame's tokens have each.
    """

    bitsets: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class EqualRegions:
    """Regions that cover each frame without overlap, with areas that differ by one token at most."""

    number: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= MAX_REGIONS:
            raise ValueError(f"--regions must lie in 1 to {MAX_REGIONS}, got {self.number}")

    def areas(self, frames: int, height: int, width: int) -> Areas:
        """Of frames of height x width tokens."""
        ends = torch.arange(self.number + 1) * height * width
        count = (-(-ends // self.number)).diff()
        present = count.nonzero().flatten()
        return Areas(1 << present, count[present].expand(frames, -1))


@dataclass(frozen=True, eq=False)
class MaskRegions:
    """Regions counted in masks, which are repeated from the first frame on where there are more frames than masks."""

    layout: SpaceTimeLayout

    def areas(self, frames: int, height: int, width: int) -> Areas:
        """Of frames of height x width tokens."""
        region = self.layout.tokens(height, width).region.view(self.layout.num_frames, -1).long()
        bitsets, index = region.unique(return_inverse=True)
        count = torch.stack([torch.bincount(row, minlength=len(bitsets)) for row in index])
        return Areas(bitsets, count[torch.arange(frames) % len(count)])


Regions = EqualRegions | MaskRegions
