"""How many tokens of each frame lie in which regions: assumed, or counted in masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fame_accel.core.layout import MAX_REGIONS, SpaceTimeLayout


@dataclass(frozen=True)
class Areas:
    """bitsets int64 [S], ascending; tokens int64 [F, S]: how many of a frame's tokens have each bitset."""

    bitsets: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class EqualRegions:
    """Regions that cover each frame without overlap, of equal areas to a token."""

    number: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= MAX_REGIONS:
            raise ValueError(f"--regions must lie in 1 to {MAX_REGIONS}, got {self.number}")

    def areas(self, frames: int, height: int, width: int) -> Areas:
        tokens = height * width
        region = torch.arange(tokens) * self.number // tokens
        found, count = region.unique(return_counts=True)
        return Areas(1 << found, count.expand(frames, -1))


@dataclass(frozen=True, eq=False)
class MaskRegions:
    """Regions as masks have them; frames past theirs repeat them from the first on."""

    layout: SpaceTimeLayout

    def areas(self, frames: int, height: int, width: int) -> Areas:
        region = self.layout.tokens(height, width).region.view(self.layout.num_frames, -1).long()
        bitsets, place = region.unique(return_inverse=True)
        count = torch.stack([torch.bincount(row, minlength=len(bitsets)) for row in place])
        return Areas(bitsets, count[torch.arange(frames) % len(count)])


Regions = EqualRegions | MaskRegions
