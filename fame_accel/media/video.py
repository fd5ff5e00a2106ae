"""Videos: reading a file or a folder of images."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from os import PathLike
from pathlib import Path

from fame_accel.core.checks import is_number, shown
from fame_accel.core.limits import VAE_SCALE_FACTOR, Size
from fame_accel.media.selection import Choice, check_selection
from fame_accel.media.taken import Video, describe_size
from fame_accel.media.video_file import read_file
from fame_accel.media.video_folder import read_folder


def read_video(
    path: str | PathLike[str],
    frames: int | None = None,
    stride: int | str = 1,
    size: Size | None = None,
    fps: float | None = None,
    *,
    start: float = 0.0,
    fit: str = "crop",
    most: int | None = None,
    multiple: int = VAE_SCALE_FACTOR,
) -> Video:
    """Read a video from a file, or from a folder of images of one size.

    A folder is read in natural order (frame2 before frame10): its .png, .jpg, .jpeg, .webp and .bmp files are the
    frames, other files are skipped. The display matrix, pixel aspect ratio and colors that a file states are applied.

    Args:
        path: a file that FFmpeg can read, or a folder.
        frames: number of frames to take; None takes all.
        stride: take every stride-th frame; "auto" takes about 8 frames a second.
        size: (height, width) in pixels. A side of None keeps the aspect ratio of the source, (None, None) with about
            the area of 512x512. None keeps the size.
        fps: frame rate of the source in frames per second, before the stride. None takes the file's own time stamps,
            or 8 for a folder.
        start: seconds after the first frame of the source. The first frame taken is the first one at or after it.
        fit: how frames come to the aspect ratio of ``size``: "crop" around the center, "pad" with black, "stretch".
        most: stop after this many frames; fewer are no error.
        multiple: what the sides that ``size`` leaves open are multiples of, in pixels.

    Returns:
        The frames, their frame rate, and where they come from.

    Raises:
        ValueError: an argument is out of range; the path does not exist; the file is not a video, is damaged, or
            has no time stamps; an image cannot be read or differs in size; there are too few frames.
        ImportError: PyAV or Pillow is missing.
    """
    if not isinstance(path, (str, PathLike)):
        raise TypeError(f"path must be a str or a Path, got {shown(path)}")
    path = Path(path)
    check_selection(frames, stride, size, start, fit)
    if fps is not None and not ((is_number(fps) or isinstance(fps, Fraction)) and fps > 0):
        raise ValueError(f"fps must be positive and finite, got {shown(fps)}")
    if not path.exists():
        raise ValueError(f"no such video file or folder: {path}")
    if not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is neither a file nor a folder")
    choice = Choice(frames, stride, size, fps, start, fit, most, multiple)
    video = read_folder(path, choice) if path.is_dir() else read_file(path, choice)
    return replace(video, lines=(*video.lines, describe_size(video)))
