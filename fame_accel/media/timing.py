"""When frames are shown: their frame rate, and the stride that gives one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from statistics import median
from typing import Any

from fame_accel.core.limits import AUTO_FPS

_NO_TIME_STAMPS = 0x80  # FFmpeg's AVFMT_NOTIMESTAMPS: a raw stream, whose frame rate FFmpeg makes up
_SAMPLED = 64  # packets from which the frame rate of --stride auto is measured
_SAME_FPS = 0.01  # between frame rates that are one rate, rounded, as 29.97 is
GIVE_FPS = "give its frame rate with fps (--fps)"


@dataclass(frozen=True)
class Clock:
    """The time of each frame of a file.

    Attributes:
        fps: frame rate that replaces the file's time stamps, or None.
        stated: frame rate that the container states, or 0.
        tick: seconds to which time stamps are rounded.
        stamped: whether the file has time stamps.
    """

    fps: float | None
    stated: float
    tick: float
    stamped: bool = True

    @classmethod
    def of(cls, container: Any, stream: Any, fps: float | None) -> Clock:
        """The clock of an open file and its video stream."""
        stamped = not int(container.format.flags) & _NO_TIME_STAMPS
        return cls(fps, float(stream.average_rate or 0), float(stream.time_base or 0), stamped)

    @property
    def keeps_time(self) -> bool:
        """Whether frames are shown when the file says so."""
        return self.fps is None or (self.stamped and abs(self.fps - self.stated) < _SAME_FPS)

    def seconds(self, index: int, frame: Any, source: str) -> float:
        """When a frame is shown; ValueError where the file does not say."""
        if self.fps is not None:
            return index / self.fps
        if not self.stamped or frame.time is None:
            raise ValueError(f"{source} has no time stamps: {GIVE_FPS}")
        return float(frame.time)

    def rate(self, times: Sequence[float], stride: int, frame: Any, source: str) -> float:
        """The frame rate of frames that were taken.

        It is their mean, so that they play as long as in the source and stay in time with its sound. The rate that
        the container states is taken where it agrees with the time stamps to their precision.

        Args:
            times: of the frames, in seconds, one at least.
            stride: distance between the frames.
            frame: the last one, whose duration counts where there is no other.
            source: for the error message.

        Raises:
            ValueError: the times do not increase, or a single frame states no duration.
        """
        if self.fps is not None:
            return self.fps / stride
        if any(after <= before for before, after in pairwise(times)):
            raise ValueError(f"the time stamps of {source} do not increase: {GIVE_FPS}")
        span, intervals = times[-1] - times[0], len(times) - 1
        if self.stated and abs(intervals * stride / self.stated - span) <= 2 * self.tick and intervals:
            return self.stated / stride
        if intervals:
            return intervals / span
        duration = float((frame.duration or 0) * (frame.time_base or 0))
        if duration <= 0:
            raise ValueError(f"a single frame of {source} states no duration: {GIVE_FPS}")
        return 1 / duration / stride

    def uneven(self, times: Sequence[float]) -> tuple[float, float] | None:
        """The least and the greatest time between frames in seconds, if they differ by more than rounding."""
        gaps = [after - before for before, after in pairwise(times)]
        if self.fps is not None or not gaps or max(gaps) - min(gaps) <= 2 * self.tick + 0.01 * min(gaps):
            return None
        return min(gaps), max(gaps)


def auto_stride(fps: float) -> int:
    """The stride with which frames play about 8 times a second."""
    return max(1, round(fps / AUTO_FPS))


def measured_rate(container: Any, stream: Any, source: str) -> float:
    """The frame rate of the first packets of a file, in frames per second, without decoding them.

    Raises:
        ValueError: they have no time stamps.
    """
    packets = (packet for packet in container.demux(stream) if packet.size)
    stamps = sorted({packet.pts for packet in islice(packets, _SAMPLED) if packet.pts is not None})
    if int(container.format.flags) & _NO_TIME_STAMPS or not stamps:
        raise ValueError(f"{source} has no time stamps: {GIVE_FPS}")
    if len(stamps) == 1:
        return AUTO_FPS  # a single frame, whatever the stride
    # the median, as the last packets in decoding order leave gaps
    return 1 / float(median(after - before for before, after in pairwise(stamps)) * stream.time_base)


def describe_span(count: int, total: int, stride: int, first: float, seconds: float) -> str:
    """Which frames were taken, in a line; a total of 0 is not known."""
    of = f" of {total}" if total else ""
    every = f", stride {stride}" if stride > 1 else ""
    return f"{count}{of} frame{'s' * ((total or count) != 1)}{every}: {first:.2f} to {first + seconds:.2f} s"
