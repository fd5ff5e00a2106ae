"""Checks of the input that the measures share: two clips of one shape, and masks that fit them."""

from __future__ import annotations

import torch
from torch import Tensor

from fame_accel.media.frames import check_frames


def check_pair(source: Tensor, edited: Tensor) -> None:
    """Raise ValueError unless both are uint8 [F, H, W, 3] of one shape."""
    check_frames(source)
    check_frames(edited)
    if source.shape != edited.shape:
        raise ValueError(f"edited must have the shape of source, {list(source.shape)}, got {list(edited.shape)}")


def check_mask(name: str, mask: Tensor, frames: Tensor) -> None:
    """Raise ValueError, naming ``name``, unless the mask is bool [F, H, W] for frames [F, H, W, 3]."""
    if mask.dtype != torch.bool or mask.shape != frames.shape[:3]:
        raise ValueError(f"{name} must be bool {list(frames.shape[:3])}, got {mask.dtype} {list(mask.shape)}")
