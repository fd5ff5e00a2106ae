"""Which frames of a video are read, and how they come to their size."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fame_accel.core.checks import check_choice, is_number, shown
from fame_accel.core.limits import AUTO, FITS, MAX_PIXELS, Size, width_x_height
from fame_accel.media.frames import complete_size, fit_frames

MAX_VALUE = 2**31 - 1  # the largest count that torch and FFmpeg handle
ROUNDING = 0.0005  # seconds: a frame at 0.0333 s is at or after a start of 0.0334


@dataclass(frozen=True)
class Choice:
    """What to read of a video: arguments of `read_video`."""

    frames: int | None
    stride: int | str
    size: Size | None
    fps: float | None
    start: float
    fit: str
    most: int | None
    multiple: int

    @property
    def whole(self) -> bool:
        """Whether the video is read to its end."""
        return self.frames is None and self.most is None

    def fitted(self, picture: Tensor) -> Tensor:
        """A picture [H, W, 3] as it is used."""
        if self.size is None:
            return picture
        size = complete_size(self.size, (picture.shape[0], picture.shape[1]), self.multiple)
        return fit_frames(picture[None], size, self.fit)[0]


def check_selection(
    frames: int | None, stride: int | str, size: Size | None, start: float = 0.0, fit: str = "crop"
) -> None:
    """Raise ValueError if an argument is out of range.

    Args:
        frames: number of frames, 1 to 2**31 - 1, or None for all.
        stride: distance between the frames, 1 to 2**31 - 1, or "auto".
        size: (height, width) in pixels, each 1 to 2**31 - 1 or None, together at most MAX_PIXELS, or None to keep the
            size.
        start: in seconds, not negative.
        fit: "crop", "pad" or "stretch".
    """
    for name, value in (("frames", frames), ("stride", stride)):
        if value is None or (name == "stride" and isinstance(value, str) and value == AUTO):
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{name} must be a whole number{f' or {AUTO}' * (name == 'stride')}, got {shown(value)}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {shown(value)}")
        if value > MAX_VALUE:
            raise ValueError(f"{name} must be at most {MAX_VALUE}, got {shown(value)}")
    if size is not None:
        is_pair = isinstance(size, (tuple, list)) and len(size) == 2
        if not is_pair or not all(side is None or _is_side(side) for side in size):
            raise ValueError(f"size must be (height, width) in pixels, each 1 to {MAX_VALUE}, got {shown(size)}")
        height, width = size
        if height is not None and width is not None and height * width > MAX_PIXELS:
            raise ValueError(f"size must have at most {MAX_PIXELS} pixels, got {width_x_height((height, width))}")
    if not (is_number(start) and start >= 0):
        raise ValueError(f"start must be at least 0 seconds and finite, got {shown(start)}")
    check_choice("fit", fit, FITS)


def _is_side(side: object) -> bool:
    return isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= MAX_VALUE


def select_frames(available: int, frames: int | None, stride: int, source: str, first: int = 0) -> range:
    """Return the indices of the first ``frames`` of every ``stride``-th frame.

    Args:
        available: number of frames in the source.
        frames: how many to take; None takes all.
        stride: distance between two frames.
        source: name of the source, for the error message.
        first: index of the first frame to take.

    Raises:
        ValueError: the source has too few frames.
    """
    indices = range(first, available, stride)
    if len(indices) < (frames or 1):
        details = [f"from frame {first} on"] * (first > 0) + [f"at stride {stride}"] * (stride > 1)
        left = f", {len(indices)} {' '.join(details)}" if details else ""
        wanted = f"{frames or 1} were asked for"
        raise ValueError(f"{source} has {available} frame{'s' * (available != 1)}{left}: {wanted}")
    return indices[:frames]
