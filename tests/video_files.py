"""Small video files of any kind, for the tests of reading."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy import ndarray

SIDE = 32
MILLISECOND = Fraction(1, 1000)


def shades(count: int) -> list[ndarray]:
    """Frames uint8 [32, 48, 3], each of one gray: 10, 20, 30 and so on, so that a frame tells its number."""
    return [np.full((SIDE, 48, 3), 10 * (index + 1), np.uint8) for index in range(count)]


def numbers(frames: Any) -> list[int]:
    """The indices of frames of `shades`, from their gray."""
    return [round(float(frame.float().mean()) / 10) - 1 for frame in frames]


def encode(
    path: Path,
    pictures: Sequence[ndarray],
    times: Sequence[int] | None = None,
    *,
    rate: int = 10,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    sound: str | None = None,
    **settings: Any,
) -> Path:
    """Write a video file.

    Args:
        path: the file; its suffix names the container.
        pictures: uint8 frames [H, W, 3], or [H, W, 4] with alpha.
        times: of the frames in milliseconds; None spaces them evenly.
        rate: frames per second, in the header.
        codec, pix_fmt: FFmpeg's names.
        sound: codec of a track as long as the video, or None.
        settings: attributes of the codec context, or of the stream.
    """
    options = {"crf": "1"} if codec == "libx264" else {}
    with av.open(f"file:{path}", "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if times is not None:
            stream.codec_context.time_base = stream.time_base = MILLISECOND
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        audio = None if sound is None else container.add_stream(sound, rate=48000, layout="mono")
        for index, picture in enumerate(pictures):
            shape = "rgb24" if picture.shape[-1] == 3 else "rgba"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=shape)
            if times is not None:
                frame.pts, frame.time_base = times[index], MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            count = 48000 * len(pictures) // rate
            waves = np.sin(np.linspace(0, 30, count) ** 4)[None]  # of a pitch that rises, so that packets differ
            floats = sound == "aac"
            samples = waves.astype(np.float32) if floats else (20000 * waves).astype(np.int16)
            block = av.AudioFrame.from_ndarray(samples, format="fltp" if floats else "s16", layout="mono")
            block.sample_rate = 48000
            container.mux(audio.encode(block))
            container.mux(audio.encode(None))
    return path


def with_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """Replace the display matrix of an MP4 file."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version, times, track and layer stand before it
    fixed = [round(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0)]
    data[start : start + 36] = struct.pack(">9i", *fixed, 1 << 30)
    path.write_bytes(data)
    return path
