"""Opening a video file that is not trusted, and decoding it frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fame_accel.core.limits import MAX_PIXELS, width_x_height
from fame_accel.media.packages import require

if TYPE_CHECKING:
    from av import VideoFrame

# FFmpeg's names of containers that hold pictures and name no other file to open, as playlists do
_FORMATS = (
    *("mov", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "mxf", "nut", "dv", "gif"),
    *("apng", "ivf", "obu", "h264", "hevc", "m4v", "mjpeg", "yuv4mpegpipe"),
)
_TO_REPAIR = "a copy made by `ffmpeg -i FILE COPY.mp4` can be read"


@contextmanager
def open_media(file: Path) -> Iterator[Any]:
    """Open a file with PyAV; no other file is opened and no network is used.

    Raises:
        ValueError: the file is no video or sound in a known container; also for FFmpeg's errors inside the block.
    """
    av = require("av", "diffusers")
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(_FORMATS)}
    try:
        # without its protocol, a name with a colon would be a URL
        with av.open(f"file:{file}", options=options, metadata_errors="replace") as container:
            yield container
    except av.error.ArgumentError as error:  # what FFmpeg raises for a format that is not on the list
        raise ValueError(f"{file} cannot be read as a video: its format is none of {', '.join(_FORMATS)}") from error
    except av.error.FFmpegError as error:
        raise ValueError(f"{file} cannot be read as a video: {error.strerror}") from error


def video_stream(container: Any, file: Path) -> Any:
    """The first video stream of an open file that is not a cover picture; ValueError where there is none."""
    av = require("av", "diffusers")
    streams = [
        stream for stream in container.streams.video if not stream.disposition & av.stream.Disposition.attached_pic
    ]
    if not streams:
        raise ValueError(f"{file} has no video stream")
    return streams[0]


def decode(container: Any, stream: Any, file: Path) -> Iterator[VideoFrame]:
    """Yield the frames of a stream, all of one size and undamaged.

    Raises:
        ValueError: a frame is damaged, too large, or differs in size from the first one.
    """
    av = require("av", "diffusers")
    codec = stream.codec_context
    if codec.width * codec.height > MAX_PIXELS:
        declared = width_x_height((codec.height, codec.width))
        raise ValueError(f"the frames of {file} are {declared} pixels: at most {MAX_PIXELS} pixels are read")
    # without "explode", FFmpeg fills the gaps of damaged frames with pixels of its own; its slice threads always do
    codec.thread_count = 1
    codec.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
    count, size = 0, (0, 0)
    try:
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise ValueError(f"frame {count} of {file} is damaged: {_TO_REPAIR}")
            here = (frame.height, frame.width)
            size = size if count else here
            if here != size:
                changed = f"is {width_x_height(here)} pixels, the first one {width_x_height(size)}"
                raise ValueError(f"the frames of {file} differ in size: frame {count} {changed}: {_TO_REPAIR}")
            yield frame
            count += 1
    except av.error.FFmpegError as error:
        position = f" past frame {count - 1}" if count else ""
        raise ValueError(f"{file} cannot be read as a video{position}: {error.strerror}; {_TO_REPAIR}") from error
