"""The tables of a modulation over classes of frames: frames that the tables do not tell apart share a class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fame_accel.core.modulation import Modulation


@dataclass(frozen=True)
class Tables:
    """A modulation whose frames are merged into classes.

    Attributes:
        query_class, key_class: int64 [Fq] and [Fk], the class of each frame.
        strength, bias: float32 [2, query classes, key classes] on the CPU; None where 0 everywhere.
        by_region: whether it matters that two tokens share a region.
        strength_pair: (A in different regions, A in the same region) where A depends on nothing else; (0, 0) where A is
            0 everywhere, otherwise None.
        key_classes: number of classes of key frames.
    """

    query_class: Tensor
    key_class: Tensor
    strength: Tensor | None
    bias: Tensor | None
    by_region: bool
    strength_pair: tuple[float, float] | None
    key_classes: int

    @property
    def max_bias(self) -> float:
        """The largest B above -inf; 0 where there is none."""
        if self.bias is None:
            return 0.0
        finite = self.bias[self.bias > -math.inf]
        return finite.max().item() if finite.numel() else 0.0


def merge_frames(modulation: Modulation, query_frames: int, key_frames: int) -> Tables:
    """The tables of `modulation` over classes of frames that they treat alike."""
    tables = torch.zeros(4, query_frames, key_frames, dtype=torch.float32, device="cpu")
    if modulation.strength_table is not None:
        tables[:2] = modulation.strength_table
    if modulation.bias_table is not None:
        tables[2:] = modulation.bias_table
    query_class = tables.transpose(0, 1).flatten(1).unique(dim=0, return_inverse=True)[1]
    key_class = tables.permute(2, 0, 1).flatten(1).unique(dim=0, return_inverse=True)[1]
    merged = tables.new_empty(4, int(query_class.max()) + 1, int(key_class.max()) + 1)
    merged[:, query_class[:, None], key_class[None, :]] = tables
    strength = merged[:2] if bool(merged[:2].any()) else None
    bias = merged[2:] if bool(merged[2:].any()) else None
    by_region = strength is not None or (bias is not None and not torch.equal(bias[0], bias[1]))
    pair: tuple[float, float] | None = (0.0, 0.0)
    if strength is not None:
        flat = strength.flatten(1)
        pair = (flat[0, 0].item(), flat[1, 0].item()) if bool((flat == flat[:, :1]).all()) else None
    return Tables(query_class, key_class, strength, bias, by_region, pair, merged.shape[2])
