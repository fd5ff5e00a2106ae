"""What the forms of masks share: which frames are taken, and from which level on a pixel is inside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fame_accel.media.selection import select_frames


@dataclass(frozen=True)
class FrameChoice:
    """How many frames are taken, at which distance, from which one on."""

    frames: int
    stride: int
    first: int

    def of(self, available: int, source: str) -> list[int]:
        """The indices of the frames; of a single one that one, which stands for all. ValueError where there are few."""
        return [0] if available == 1 else list(select_frames(available, self.frames, self.stride, source, self.first))


def inside(levels: Tensor) -> Tensor:
    """Where a mask is at least half of its largest value: bool, all False where that is 0.

    Args:
        levels: bool, or numbers that are not negative, of any shape and at least one element.
    """
    if levels.dtype == torch.bool:
        return levels
    most = levels.max().double()
    return (2 * levels.double() >= most) & (most > 0)
