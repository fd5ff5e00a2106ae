"""Frames: the form that all of media/ uses, conversion from floating point, cropping and resizing."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def check_frames(frames: Tensor) -> None:
    """Raise ValueError unless ``frames`` is a video as media/ has it: uint8 [F, H, W, 3], not empty."""
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


def fit_frames(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop a video around its center to the aspect ratio of a size, then resize it: bicubic, with antialiasing.

    Args:
        frames: uint8 tensor [F, H, W, 3].
        size: (height, width) in pixels.

    Returns:
        uint8 tensor [F, height, width, 3].
    """
    check_frames(frames)
    if tuple(frames.shape[1:3]) == tuple(size):
        return frames
    rows, columns = _center_crop(frames.shape[1], frames.shape[2], size)
    pictures = frames[:, rows, columns].permute(0, 3, 1, 2).float()
    resized = interpolate(pictures, size=size, mode="bicubic", antialias=True)
    return to_bytes(resized, white=255).permute(0, 2, 3, 1).contiguous()


def fit_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop masks as :func:`fit_frames` crops frames, then resize them: nearest neighbor.

    Args:
        masks: tensor [R, F, H, W] of any dtype.
        size: (height, width) in pixels.

    Returns:
        Tensor [R, F, height, width] of the same dtype. Each pixel has the value found under its center, so that masks
        are not shifted against their frames.
    """
    if tuple(masks.shape[2:]) == tuple(size):
        return masks
    rows, columns = _center_crop(masks.shape[2], masks.shape[3], size)
    resized = interpolate(masks[:, :, rows, columns].float(), size=size, mode="nearest-exact")
    return resized.to(masks.dtype)


def _center_crop(height: int, width: int, size: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of the largest centered box with the aspect ratio of ``size``, to the pixel."""
    rows = min(height, max(1, round(width * size[0] / size[1])))
    columns = min(width, max(1, round(height * size[1] / size[0])))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)
