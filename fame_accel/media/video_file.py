"""Reading a video file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fame_accel.media.decoding import decode, open_media, video_stream
from fame_accel.media.light import upright_rgb
from fame_accel.media.packages import require
from fame_accel.media.selection import ROUNDING, Choice, select_frames
from fame_accel.media.sound import find_sound
from fame_accel.media.taken import Video
from fame_accel.media.timing import Clock, auto_stride, describe_span, measured_rate


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


def read_file(file: Path, choice: Choice) -> Video:
    """Read a video file; ValueError where it is none, damaged, without time stamps, or too short."""
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
        sound, sound_lines = find_sound(container, file, begin, begin + seconds, clock.keeps_time)
        total = taken.count if choice.whole else stream.frames
    span = describe_span(len(times), total, stride, times[0] - taken.origin, seconds)
    pictures, all_lines = torch.stack(taken.pictures), (span, *lines, *sound_lines)
    sizes = (taken.source_size, taken.stored_size)
    return Video(pictures, fps, *sizes, taken.first, stride, choice.fit, sound, all_lines)


def _take(container: Any, stream: Any, clock: Clock, stride: int, file: Path, choice: Choice) -> _Taken:
    """Decode a file up to the last frame that is wanted; ValueError where there are too few."""
    reformatter = require("av.video.reformatter", "diffusers").VideoReformatter()
    aspect = float(stream.sample_aspect_ratio or 1)
    taken = _Taken()
    for index, frame in enumerate(decode(container, stream, file)):
        time = clock.seconds(index, frame, str(file))
        taken.count, taken.origin = index + 1, time if index == 0 else taken.origin
        if time - taken.origin < choice.start - ROUNDING:
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
    if len(taken.pictures) != choice.most:
        select_frames(taken.count, choice.frames, stride, str(file), taken.first)
    return taken


def _rate_of(file: Path) -> float:
    """The frame rate of a file in frames per second, before it is decoded."""
    with open_media(file) as container:
        return measured_rate(container, video_stream(container, file), str(file))
