"""A clip and its masks as tensors, whatever form the caller has them in; and the edited clip in the form asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fame_accel.media.frames import to_bytes
from fame_accel.media.mask_levels import inside

if TYPE_CHECKING:
    from PIL import Image

Frames: TypeAlias = "Tensor | np.ndarray | Sequence[Image.Image]"

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def as_frames(name: str, frames: Frames) -> Tensor:
    """Convert a clip to one form.

    Args:
        name: the argument's name, for error messages.
        frames: a list of PIL images of one size; a uint8 array or tensor [F, H, W, 3]; a float array [F, H, W, 3] or
            a float tensor [F, 3, H, W] in [0, 1].

    Returns:
        float32 tensor [F, 3, H, W] in [0, 1], on the CPU or the device of the given tensor.

    Raises:
        ValueError, TypeError: ``frames`` has none of these forms.
    """
    if isinstance(frames, (list, tuple)) and frames and all(hasattr(frame, "convert") for frame in frames):
        sizes = sorted({frame.size for frame in frames})
        if len(sizes) > 1:
            raise ValueError(f"{name} must be images of one size, got {sizes} (width, height)")
        frames = np.stack([np.asarray(frame.convert("RGB")) for frame in frames])
    if isinstance(frames, np.ndarray):
        channels_last = True
        frames = torch.from_numpy(np.ascontiguousarray(frames))
    elif isinstance(frames, Tensor):
        channels_last = frames.dtype == torch.uint8
    else:
        raise TypeError(f"{name} must be PIL images, an array or a tensor, got {_type_name(frames)}")
    wanted = "[F, H, W, 3]" if channels_last else "[F, 3, H, W]"
    if frames.dim() != 4 or frames.shape[-1 if channels_last else 1] != 3 or not frames.numel():
        raise ValueError(f"{name} must have shape {wanted} as {frames.dtype}, got {list(frames.shape)}")
    if channels_last:
        frames = frames.permute(0, 3, 1, 2)
    if frames.dtype == torch.uint8:
        return frames.float() / 255
    if not frames.is_floating_point():
        raise TypeError(f"{name} must be uint8 or floating, got {frames.dtype}")
    low, high = (value.item() for value in frames.aminmax())
    if not (0 <= low and high <= 1):
        raise ValueError(f"{name} must lie in [0, 1] as {frames.dtype}, got values in [{low:g}, {high:g}]")
    return frames.float()


def as_masks(masks: Mapping[str, Any], shape: tuple[int, int, int]) -> Tensor:
    """Stack the masks of an edit.

    Args:
        masks: by region name a tensor or array [F, H, W]: bool, or uint8, of which what is at least half of the
            largest value is inside.
        shape: (F, H, W) of the clip.

    Returns:
        bool tensor [R, F, H, W] on the CPU, in the order of ``masks``.

    Raises:
        ValueError, TypeError: a mask has another form or shape or is empty; the message names its region.
    """
    if not isinstance(masks, Mapping) or not masks:
        raise TypeError(f"masks must map names of regions to masks [F, H, W], got {_type_name(masks)}")
    stacked = []
    for region, mask in masks.items():
        mask = torch.from_numpy(mask) if isinstance(mask, np.ndarray) else mask
        if not isinstance(mask, Tensor) or mask.dtype not in (torch.bool, torch.uint8):
            kind = mask.dtype if isinstance(mask, Tensor) else _type_name(mask)
            raise TypeError(f"masks[{region!r}] must be a bool or uint8 tensor or array [F, H, W], got {kind}")
        if tuple(mask.shape) != shape:
            raise ValueError(f"masks[{region!r}] must have the clip's shape {shape}, got {tuple(mask.shape)}")
        if not bool(mask.any()):
            raise ValueError(f"masks[{region!r}] is empty: the region has no pixel in any frame")
        stacked.append(inside(mask.cpu()))
    return torch.stack(stacked)


def as_output(frames: Tensor, output_type: str) -> Tensor | np.ndarray | list[Image.Image]:
    """Convert decoded frames to an output type.

    Args:
        frames: float [F, 3, H, W] in [-1, 1]; values outside are clamped.
        output_type: "pt", "np" or "pil".

    Returns:
        "pt": float32 tensor [F, 3, H, W] in [0, 1]; "np": float32 array [F, H, W, 3] in [0, 1]; "pil": F images.

    Raises:
        ValueError: ``frames`` holds NaN or infinity, which no picture can show.
    """
    if not bool(frames.isfinite().all()):
        raise ValueError("frames must be finite, got NaN or infinity, which would be shown as black or white")
    pictures = (frames.float() / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return pictures
    pictures = pictures.permute(0, 2, 3, 1)
    if output_type == "np":
        return pictures.cpu().numpy()
    from PIL import Image

    return [Image.fromarray(picture) for picture in to_bytes(pictures).cpu().numpy()]


def _type_name(value: object) -> str:
    items = f" of {type(value[0]).__name__}" if isinstance(value, (list, tuple)) and value else ""
    return f"{type(value).__name__}{items}"
