"""Videos: reading a file or a folder of images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fame_accel.core.limits import width_x_height
from fame_accel.media.decoding import decode, open_media, video_stream
from fame_accel.media.files import IMAGE_SUFFIXES, image_files, open_image
from fame_accel.media.frames import Placement, Size, complete_size, fit_frames, place
from fame_accel.media.light import OVER_BLACK, over_black, upright_rgb
from fame_accel.media.packages import require
from fame_accel.media.selection import check_selection, select_frames
from fame_accel.media.sound import Sound, find_sound
from fame_accel.media.timing import Clock, auto_stride, describe_span, measured_rate

FOLDER_FPS = 8.0
_ROUNDING = 0.0005  # seconds: a frame at 0.0333 s is at or after a start of 0.0334


@dataclass(frozen=True, eq=False)
class Video:
    """A video that was read.

    Attributes:
        frames: uint8 [F, H, W, 3], RGB, on the CPU.
        fps: frame rate of these frames in frames per second: the rate of the source divided by the stride.
        source_size: (height, width) in pixels of the upright source, before cropping and resizing.
        stored_size: the same before its pixels were made square.
        first: index of the first frame in the source.
        stride: distance of the frames in the source.
        fit: how frames came to their size: "crop", "pad" or "stretch".
        sound: of the same span, or None.
        lines: what was taken of the source and how it was changed, for people to read.
    """

    frames: Tensor
    fps: float
    source_size: tuple[int, int]
    stored_size: tuple[int, int]
    first: int = 0
    stride: int = 1
    fit: str = "crop"
    sound: Sound | None = None
    lines: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of the frames."""
        return self.frames.shape[1], self.frames.shape[2]

    def without_padding(self, pictures: Tensor) -> Tensor:
        """Crop pictures [F, H, W, ...] of the size of the frames to what is no padding."""
        rows, columns = place(self.source_size, self.size, self.fit).content
        return pictures[:, rows, columns]


@dataclass(frozen=True)
class _Choice:
    """The arguments of `read_video` that say what to read."""

    frames: int | None
    stride: int | str
    size: Size | None
    fps: float | None
    start: float
    fit: str
    most: int | None

    @property
    def whole(self) -> bool:
        """Whether the video is read to its end."""
        return self.frames is None and self.most is None

    def fitted(self, picture: Tensor) -> Tensor:
        """A picture [H, W, 3] as it is used."""
        if self.size is None:
            return picture
        size = complete_size(self.size, (picture.shape[0], picture.shape[1]))
        return fit_frames(picture[None], size, self.fit)[0]


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

    Returns:
        The frames, their frame rate, and where they come from.

    Raises:
        ValueError: an argument is out of range; the path does not exist; the file is not a video, is damaged, or
            has no time stamps; an image cannot be read or differs in size; there are too few frames.
        ImportError: PyAV or Pillow is missing.
    """
    path = Path(path)
    check_selection(frames, stride, size, start, fit)
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"fps must be positive and finite, got {fps}")
    if not path.exists():
        raise ValueError(f"no such video file or folder: {path}")
    if not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is neither a file nor a folder")
    choice = _Choice(frames, stride, size, fps, start, fit, most)
    video = _read_folder(path, choice) if path.is_dir() else _read_file(path, choice)
    where = place(video.source_size, video.size, fit)
    return replace(video, lines=(*video.lines, _describe_size(video, where)))


def _read_folder(folder: Path, choice: _Choice) -> Video:
    files = image_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    numpy = require("numpy", "diffusers")
    fps = choice.fps or FOLDER_FPS
    stride = auto_stride(fps) if isinstance(choice.stride, str) else choice.stride
    first = next((index for index in range(len(files)) if index / fps >= choice.start - _ROUNDING), len(files))
    pictures: list[Tensor] = []
    source_size, transparent = (0, 0), False
    for index in select_frames(len(files), choice.frames, stride, str(folder), first)[: choice.most]:
        image = open_image(files[index])
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{files[index]} has more than 8 bits a channel ({image.mode}): save it with 8")
        picture = torch.from_numpy(numpy.array(image.convert("RGBA" if image.has_transparency_data else "RGB")))
        if picture.shape[-1] == 4:
            picture, here = over_black(picture)
            transparent = transparent or here
        size_here = (picture.shape[0], picture.shape[1])
        source_size = size_here if not pictures else source_size
        if size_here != source_size:
            raise ValueError(
                f"the images of {folder} must have one size: {files[index].name} is {width_x_height(size_here)}, "
                f"{files[first].name} is {width_x_height(source_size)}"
            )
        pictures.append(choice.fitted(picture))
    count = len(pictures)
    span = describe_span(count, len(files), stride, first / fps, count * stride / fps)
    lines = (span, *[OVER_BLACK] * transparent)
    return Video(torch.stack(pictures), fps / stride, source_size, source_size, first, stride, choice.fit, None, lines)


@dataclass(eq=False)
class _Taken:
    """Frames of a file while it is decoded.

    Attributes:
        pictures: as they are used.
        times: when they are shown, in seconds on the clock of the file.
        lines: what their conversion has to tell.
        source_size, stored_size: as in `Video`.
        count: frames that were decoded.
        first: index of the first one that was taken.
        origin: time of the first one that was decoded.
        last: the last one that was taken.
    """

    pictures: list[Tensor] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    source_size: tuple[int, int] = (0, 0)
    stored_size: tuple[int, int] = (0, 0)
    count: int = 0
    first: int = 0
    origin: float = 0.0
    last: Any = None


def _read_file(file: Path, choice: _Choice) -> Video:
    stride = choice.stride
    if isinstance(stride, str):
        stride = auto_stride(choice.fps or _rate_of(file))
    with open_media(file) as container:
        stream = video_stream(container, file)
        clock = Clock.of(container, stream, choice.fps)
        taken = _take(container, stream, clock, stride, file, choice)
        times, lines = taken.times, taken.lines
        fps = clock.rate(times, stride, taken.last, str(file))
        seconds = len(times) / fps
        if gaps := clock.uneven(times):
            low, high = (1000 * gap for gap in gaps)
            lines.append(f"variable frame rate: {low:.0f} to {high:.0f} ms between frames, written as {fps:.4g} fps")
        if choice.whole and taken.count < stream.frames:
            lines.append(f"damaged: the file counts {stream.frames} frames, {taken.count} of them can be read")
        if stream.metadata.get("alpha_mode") == "1":
            lines.append("the alpha channel of the file is not read")
        end = float(taken.last.time or 0)  # of the file's own clock, also where another frame rate is given
        begin = end - (times[-1] - times[0])
        sound, said = find_sound(container, file, begin, begin + seconds, clock.keeps_time)
        total = taken.count if choice.whole else stream.frames
    span = describe_span(len(times), total, stride, times[0] - taken.origin, seconds)
    pictures, told = torch.stack(taken.pictures), (span, *lines, *said)
    sizes = (taken.source_size, taken.stored_size)
    return Video(pictures, fps, *sizes, taken.first, stride, choice.fit, sound, told)


def _take(container: Any, stream: Any, clock: Clock, stride: int, file: Path, choice: _Choice) -> _Taken:
    """Decode a file up to the last frame that is wanted; ValueError where there are too few."""
    reformatter = require("av.video.reformatter", "diffusers").VideoReformatter()
    aspect = float(stream.sample_aspect_ratio or 1)
    taken = _Taken()
    for index, frame in enumerate(decode(container, stream, file)):
        time = clock.seconds(index, frame, str(file))
        taken.count, taken.origin = index + 1, time if index == 0 else taken.origin
        if time - taken.origin < choice.start - _ROUNDING:
            taken.first = index + 1
        elif (index - taken.first) % stride == 0:  # resized one by one, as a long 4K video would not fit in memory
            picture, taken.stored_size, said = upright_rgb(frame, aspect, file, reformatter)
            taken.lines += [line for line in said if line not in taken.lines]
            taken.source_size = (picture.shape[0], picture.shape[1])
            taken.pictures.append(choice.fitted(picture))
            taken.times.append(time)
            taken.last = frame
        if len(taken.pictures) in (choice.frames, choice.most):
            break
    if not taken.count:
        raise ValueError(f"{file} holds no frames")
    if not taken.pictures or choice.most is None:
        select_frames(taken.count, choice.frames, stride, str(file), taken.first)
    return taken


def _rate_of(file: Path) -> float:
    """The frame rate of a file in frames per second, before it is decoded."""
    with open_media(file) as container:
        return measured_rate(container, video_stream(container, file), str(file))


def _describe_size(video: Video, where: Placement) -> str:
    """What was done to the size of the frames, in a line."""
    steps = [f"{width_x_height(video.source_size)} at {video.fps * video.stride:.4g} fps"]
    if where.kept != video.source_size:
        steps.append(f"cropped to {width_x_height(where.kept)}")
    if where.kept != where.size:
        resized = "stretched" if video.fit == "stretch" else "resized"
        steps.append(f"{resized} to {width_x_height(where.size)}")
    if where.size != video.size:
        steps.append(f"padded to {width_x_height(video.size)}")
    return f"{', '.join(steps)} (width x height)"
