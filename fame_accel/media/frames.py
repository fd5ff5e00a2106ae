"""Frames: the form that all of media/ uses, conversion from floating point, cropping and resizing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from fame_accel.core.limits import VAE_SCALE_FACTOR, Size

OWN_ASPECT = (None, None)  # a size: the aspect ratio of the source, with about AREA pixels
AREA = 512 * 512


@dataclass(frozen=True)
class Placement:
    """How frames come to another size.

    Attributes:
        rows, columns: what is kept of the source.
        size: (height, width) in pixels that it is resized to.
        top, left: pixels of padding before it.
    """

    rows: slice
    columns: slice
    size: tuple[int, int]
    top: int = 0
    left: int = 0

    @property
    def kept(self) -> tuple[int, int]:
        """(height, width) in pixels of what is kept of the source."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def content(self) -> tuple[slice, slice]:
        """Rows and columns of the result that are not padding."""
        return slice(self.top, self.top + self.size[0]), slice(self.left, self.left + self.size[1])


def check_frames(frames: Tensor) -> None:
    """Raise unless ``frames`` is a video as media/ has it: a uint8 tensor [F, H, W, 3], not empty."""
    if not isinstance(frames, Tensor):
        raise TypeError(f"frames must be a uint8 tensor [F, H, W, 3], got {type(frames).__name__}")
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.numel():
        raise ValueError(f"frames must be uint8 [F, H, W, 3], got {frames.dtype} {list(frames.shape)}")


def to_bytes(values: Tensor, white: float = 1.0) -> Tensor:
    """Convert floating-point pixels to uint8.

    0 becomes 0 and ``white`` becomes 255. Values are scaled in float32 and rounded to the nearest integer, halves to
    the nearest even one. Values outside [0, white], infinities among them, are clamped.

    Args:
        values: floating-point tensor of any shape.
        white: the value of a full channel: 1 for pixels in [0, 1], 255 for pixels in [0, 255].

    Returns:
        uint8 tensor of the same shape, on the same device.

    Raises:
        ValueError: ``values`` holds NaN, which no byte can stand for.
    """
    if bool(values.isnan().any()):
        raise ValueError("values must be numbers, got NaN")
    return (values.float() * (255 / white)).round().clamp(0, 255).to(torch.uint8)


def complete_size(size: Size, source: tuple[int, int], multiple: int = VAE_SCALE_FACTOR) -> tuple[int, int]:
    """Fill in the sides that a size leaves open, so that it has about the aspect ratio of the source.

    Args:
        size: (height, width) in pixels. A side of None follows from the other one; without either, the area is about
            that of 512x512.
        source: (height, width) in pixels.
        multiple: what the sides that are filled in are multiples of, in pixels.

    Returns:
        (height, width).
    """
    height, width = size
    if height is not None:
        scale = height / source[0]
    elif width is not None:
        scale = width / source[1]
    else:
        scale = math.sqrt(AREA / (source[0] * source[1]))
    return height or _nearest(source[0] * scale, multiple), width or _nearest(source[1] * scale, multiple)


def place(source: tuple[int, int], size: tuple[int, int], fit: str) -> Placement:
    """Choose how frames of one size come to another one.

    Args:
        source, size: (height, width) in pixels.
        fit: "crop" keeps the largest centered box of the aspect ratio of ``size``; "pad" keeps everything, centered
            between bars; "stretch" keeps everything and gives up its aspect ratio.
    """
    rows, columns = slice(0, source[0]), slice(0, source[1])
    if tuple(source) == tuple(size) or fit == "stretch":
        return Placement(rows, columns, size)
    if fit == "pad":
        scale = min(size[0] / source[0], size[1] / source[1])
        # even, because the content alone is written as yuv420p
        inner = [min(side, 2 * max(1, round(scale * own / 2))) for side, own in zip(size, source, strict=True)]
        return Placement(rows, columns, (inner[0], inner[1]), (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2)
    height = min(source[0], max(1, round(source[1] * size[0] / size[1])))
    width = min(source[1], max(1, round(source[0] * size[1] / size[0])))
    top, left = (source[0] - height) // 2, (source[1] - width) // 2
    return Placement(slice(top, top + height), slice(left, left + width), size)


def fit_frames(frames: Tensor, size: tuple[int, int], fit: str = "crop") -> Tensor:
    """Bring a video to a size: crop, pad or stretch it, and resize it: bicubic, with antialiasing.

    Args:
        frames: uint8 tensor [F, H, W, 3].
        size: (height, width) in pixels.
        fit: as for :func:`place`. Padding is black.

    Returns:
        uint8 tensor [F, height, width, 3].
    """
    check_frames(frames)
    if tuple(frames.shape[1:3]) == tuple(size):
        return frames
    where = place((frames.shape[1], frames.shape[2]), size, fit)
    pictures = frames[:, where.rows, where.columns].permute(0, 3, 1, 2).float()
    resized = interpolate(pictures, size=where.size, mode="bicubic", antialias=True)
    return to_bytes(_padded(resized, where, size), white=255).permute(0, 2, 3, 1).contiguous()


def fit_masks(masks: Tensor, size: tuple[int, int], fit: str = "crop") -> Tensor:
    """Bring masks to a size as :func:`fit_frames` does frames, but resized by nearest neighbor.

    Args:
        masks: tensor [R, F, H, W] of any dtype.
        size: (height, width) in pixels.
        fit: as for :func:`place`. Padding is in no region.

    Returns:
        Tensor [R, F, height, width] of the same dtype. Each pixel has the value found under its center, so that masks
        are not shifted against their frames.
    """
    if tuple(masks.shape[2:]) == tuple(size):
        return masks
    where = place((masks.shape[2], masks.shape[3]), size, fit)
    resized = interpolate(masks[:, :, where.rows, where.columns].float(), size=where.size, mode="nearest-exact")
    return _padded(resized, where, size).to(masks.dtype)


def _padded(pictures: Tensor, where: Placement, size: tuple[int, int]) -> Tensor:
    """Pictures [..., h, w] with zeros around them, [..., height, width]."""
    bottom, right = size[0] - where.top - where.size[0], size[1] - where.left - where.size[1]
    return pad(pictures, (where.left, right, where.top, bottom))


def _nearest(side: float, multiple: int) -> int:
    """The positive multiple that is nearest to a side."""
    return max(1, round(side / multiple)) * multiple
