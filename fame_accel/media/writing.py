"""Writing a video: H.264 in an MP4 file."""

from __future__ import annotations

from fractions import Fraction
from os import PathLike
from pathlib import Path

from torch import Tensor

from fame_accel.core.checks import is_number, shown
from fame_accel.core.limits import width_x_height
from fame_accel.media.frames import check_frames
from fame_accel.media.outputs import atomic_write
from fame_accel.media.packages import require
from fame_accel.media.provenance import append_xmp
from fame_accel.media.sound import Sound, copy_sound, open_sound

BIT_EXACT = 1 << 23  # FFmpeg's AV_CODEC_FLAG_BITEXACT: the stream does not name the version of the encoder
BT709, LIMITED = 1, 1  # FFmpeg's codes for the color space and for the range 16 to 235


def write_video(
    path: str | PathLike[str], frames: Tensor, fps: float, *, xmp: str | None = None, sound: Sound | None = None
) -> None:
    """Write an MP4 file of H.264 video (yuv420p, BT.709, CRF 18).

    The index comes first, so that the video plays while it loads. With the same FFmpeg, the same frames give the same
    bytes. The file appears under its name once it is complete.

    Args:
        path: the file to write, with the suffix .mp4.
        frames: uint8 tensor [F, H, W, 3], RGB. H and W must be even, as yuv420p halves the resolution of color.
        fps: frames per second, 0.01 to 1000, rounded to a fraction with a denominator of at most 1001.
        sound: copied to the file, or None.
        xmp: an XMP packet to store in the file, as `media/provenance.py` has one for edits.

    Raises:
        ValueError: wrong suffix, shape or dtype, an odd size, or ``fps`` out of range.
        ImportError: PyAV is missing.
    """
    if not isinstance(path, (str, PathLike)):
        raise TypeError(f"path must be a str or a Path, got {shown(path)}")
    path = Path(path)
    check_frames(frames)
    height, width = frames.shape[1:3]
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"path must end in .mp4, got {path}")
    if height % 2 or width % 2:
        raise ValueError(f"frames must have even height and width for yuv420p, got {width_x_height((height, width))}")
    check_fps(fps)
    with atomic_write(path) as temporary:
        _encode(f"file:{temporary}", frames, Fraction(fps).limit_denominator(1001), sound)
        if xmp is not None:
            append_xmp(temporary, xmp)


def check_fps(fps: float) -> None:
    """Raise ValueError if :func:`write_video` cannot write this frame rate."""
    if not (isinstance(fps, Fraction) or is_number(fps)) or not 0.01 <= fps <= 1000:
        raise ValueError(f"fps must lie in 0.01 to 1000, got {shown(fps)}")


def _encode(url: str, frames: Tensor, rate: Fraction, sound: Sound | None) -> None:
    """Encode frames, uint8 [F, H, W, 3], to a new file. Without its protocol, a name with a colon would be a URL."""
    av = require("av", "diffusers")
    muxing = {"movflags": "+faststart", "fflags": "+bitexact"}
    with open_sound(sound) as source, av.open(url, "w", format="mp4", options=muxing) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "medium"})
        copied = None if source is None else container.add_stream_from_template(source)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        codec = stream.codec_context
        codec.thread_count = 1  # the bytes that x264 writes depend on its number of threads
        codec.flags |= BIT_EXACT
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED
        for frame in frames.cpu():
            picture = av.VideoFrame.from_ndarray(frame.contiguous().numpy(), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if sound is not None:
            copy_sound(sound, source, copied)
