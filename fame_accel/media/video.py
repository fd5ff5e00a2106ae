"""Videos: reading a file or a folder of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fame_accel.media.files import IMAGE_SUFFIXES, image_files, open_image
from fame_accel.media.frames import fit_frames
from fame_accel.media.packages import require
from fame_accel.media.selection import check_selection, select_frames

if TYPE_CHECKING:
    from av import VideoFrame

FOLDER_FPS = 8.0


@dataclass(frozen=True, eq=False)
class Video:
    """A video that was read.

    Attributes:
        frames: uint8 [F, H, W, 3], RGB, on the CPU.
        fps: frame rate of these frames in frames per second: the rate of the source divided by the stride.
        source_size: (height, width) in pixels of the upright source, before cropping and resizing.
    """

    frames: Tensor
    fps: float
    source_size: tuple[int, int]


def read_video(
    path: str | PathLike[str],
    frames: int | None = None,
    stride: int = 1,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
) -> Video:
    """Read a video from a file, or from a folder of images of one size.

    A folder is read in natural order (frame2 before frame10): its .png, .jpg, .jpeg, .webp and .bmp files are the
    frames, other files are skipped. Rotation stored in a file is applied.

    Args:
        path: a file that FFmpeg can read, or a folder.
        frames: number of frames to take from the beginning; None takes all.
        stride: take every stride-th frame.
        size: (height, width) in pixels. Frames are cropped around their center to this aspect ratio, then resized.
            None keeps their size.
        fps: frame rate of the source in frames per second, before the stride. None takes the file's own, or 8 for a
            folder.

    Returns:
        The frames, their frame rate and the size of the source.

    Raises:
        ValueError: an argument is out of range; the path does not exist; the file is not a video, is damaged, or
            states no frame rate; an image cannot be read or differs in size; there are too few frames.
        ImportError: PyAV or Pillow is missing.
    """
    path = Path(path)
    check_selection(frames, stride, size)
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"fps must be positive and finite, got {fps}")
    if not path.exists():
        raise ValueError(f"no such video file or folder: {path}")
    read = _read_folder if path.is_dir() else _read_file
    pictures, source_size, own_fps = read(path, frames, stride, size)
    fps = fps or own_fps
    if not fps:
        raise ValueError(f"{path} states no frame rate: give fps")
    return Video(pictures, fps / stride, source_size)


def _read_folder(
    folder: Path, frames: int | None, stride: int, size: tuple[int, int] | None
) -> tuple[Tensor, tuple[int, int], float]:
    files = image_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    numpy = require("numpy", "diffusers")
    pictures: list[Tensor] = []
    source_size = (0, 0)
    for index in select_frames(len(files), frames, stride, str(folder)):
        image = open_image(files[index])
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{files[index]} has more than 8 bits a channel ({image.mode}): save it with 8")
        picture = torch.from_numpy(numpy.array(image.convert("RGB")))
        size_here = (picture.shape[0], picture.shape[1])
        source_size = size_here if not pictures else source_size
        if size_here != source_size:
            raise ValueError(
                f"the images of {folder} must have one size: {files[index].name} is {size_here[0]}x{size_here[1]}, "
                f"{files[0].name} is {source_size[0]}x{source_size[1]}"
            )
        pictures.append(picture if size is None else fit_frames(picture[None], size)[0])
    return torch.stack(pictures), source_size, FOLDER_FPS


def _read_file(
    file: Path, frames: int | None, stride: int, size: tuple[int, int] | None
) -> tuple[Tensor, tuple[int, int], float]:
    av = require("av", "diffusers")
    last = None if frames is None else (frames - 1) * stride
    pictures, source_size, count = [], (0, 0), 0
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise ValueError(f"{file} has no video stream")
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 0)
            for picture in _upright(container.decode(stream)):
                if count % stride == 0:  # resized one by one, as a long 4K video would not fit in memory
                    source_size = (picture.shape[0], picture.shape[1])
                    pictures.append(picture if size is None else fit_frames(picture[None], size)[0])
                count += 1
                if last is not None and count > last:
                    break
    except av.error.FFmpegError as error:
        position = f" past frame {count}" if count else ""
        raise ValueError(f"{file} cannot be read as a video{position}: {error.strerror}") from error
    if not count:
        raise ValueError(f"{file} holds no frames")
    select_frames(count, frames, stride, str(file))
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(f"the frames of {file} differ in size: give size, or convert the file")
    return torch.stack(pictures), source_size, rate


def _upright(decoded: Iterator[VideoFrame]) -> Iterator[Tensor]:
    """Yield each frame as uint8 [H, W, 3], rotated as its display matrix says."""
    for frame in decoded:
        picture = torch.from_numpy(frame.to_ndarray(format="rgb24"))
        turns = round(frame.rotation / 90)  # counterclockwise
        yield torch.rot90(picture, turns).contiguous() if turns % 4 else picture
