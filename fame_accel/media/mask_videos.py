"""Masks as black-and-white videos, each named after its region."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fame_accel.media.files import natural_order
from fame_accel.media.mask_levels import FrameChoice, inside
from fame_accel.media.video import read_video

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")
_TINT = 48  # difference between channels from which on a pixel is colored; codecs cause smaller ones
_COLORED = 0.01  # share of colored pixels from which on a video is


def video_files(folder: Path) -> list[Path]:
    """The videos of a folder in natural order."""
    files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    return sorted((file for file in files if file.suffix.lower() in VIDEO_SUFFIXES), key=natural_order)


def read_mask_videos(files: list[Path], choice: FrameChoice) -> list[tuple[str, Tensor]]:
    """(name, bool [frames, H, W]) of each video; ValueError where one is colored."""
    regions = []
    for file in files:
        # at 1 frame per second, seconds count frames: mask i belongs to frame i, whatever their times
        frames = read_video(file, choice.frames, choice.stride, fps=1, start=choice.first).frames
        brightest = frames.amax(-1)
        if float((brightest - frames.amin(-1) > _TINT).float().mean()) > _COLORED:
            raise ValueError(f"{file} is colored: masks must be black and white, one video per region")
        regions.append((file.stem, inside(brightest)))
    return regions
