"""What every figure asks of its input: two clips of one shape, and the region that was edited."""

import torch
from torch import Tensor

from fame_accel.media.frames import check_frames


def check_pair(source: Tensor, edited: Tensor) -> None:
    """Raise ValueError unless both are uint8 [F, H, W, 3] of one shape."""
    check_frames(source)
    check_frames(edited)
    if source.shape != edited.shape:
        raise ValueError(f"edited must have the source's shape {list(source.shape)}, got {list(edited.shape)}")


def check_mask(name: str, mask: Tensor, frames: Tensor) -> None:
    """Raise ValueError unless ``mask`` is bool [F, H, W], as the frames are."""
    if mask.dtype != torch.bool or mask.shape != frames.shape[:3]:
        raise ValueError(f"{name} must be bool {list(frames.shape[:3])}, got {mask.dtype} {list(mask.shape)}")
