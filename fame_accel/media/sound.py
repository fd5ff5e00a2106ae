"""The sound of an edited span: copied packet by packet, without being decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fame_accel.media.decoding import open_media

_IN_MP4 = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac", "vorbis")  # codecs that players find in MP4 files


@dataclass(frozen=True)
class Sound:
    """The first sound track of a file, from `start` to `end` seconds on the clock of its time stamps."""

    file: Path
    start: float
    end: float


def find_sound(
    container: Any, file: Path, start: float, end: float, own_timing: bool
) -> tuple[Sound | None, list[str]]:
    """The sound of a span, if it can go with the edited frames.

    Args:
        container: the open file.
        file: its path.
        start, end: the span in seconds, on the clock of its time stamps.
        own_timing: whether the frames are shown at the times of the file.

    Returns:
        The sound, or None; and what to say of it, a line at most.
    """
    tracks = container.streams.audio
    if not tracks:
        return None, []
    codec = tracks[0].codec_context.name
    if not own_timing:
        return None, ["sound: left out, as the given frame rate is not that of the file"]
    if codec not in _IN_MP4:
        return None, [f"sound: left out, as an MP4 file takes no {codec}: convert it to AAC first"]
    more = f", the first of {len(tracks)} tracks" if len(tracks) > 1 else ""
    return Sound(file, start, end), [f"sound: copied{more}"]


@contextmanager
def open_sound(sound: Sound | None) -> Iterator[Any]:
    """The stream of a sound while its file is open, or None."""
    if sound is None:
        yield None
        return
    with open_media(sound.file) as container:
        yield container.streams.audio[0]


def copy_sound(sound: Sound, source: Any, target: Any) -> None:
    """Copy the packets that begin in the span.

    Args:
        sound: says when the span is; its start becomes the time 0.
        source: its stream, from `open_sound`.
        target: a stream made after it, in the file that is written.
    """
    tick = float(source.time_base)
    offset = round(sound.start / tick)
    for packet in source.container.demux(source):
        if packet.pts is None:
            continue
        if packet.pts * tick >= sound.end:
            break
        if packet.pts >= offset:
            packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
            packet.stream = target
            target.container.mux(packet)
