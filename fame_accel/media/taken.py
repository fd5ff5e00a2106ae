"""A video that was read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fame_accel.core.limits import width_x_height
from fame_accel.media.frames import place
from fame_accel.media.sound import Sound


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

    @property
    def picture_lines(self) -> tuple[str, ...]:
        """`lines` for a command that writes no video: without that on sound."""
        return tuple(line for line in self.lines if not line.startswith("sound: "))

    def without_padding(self, pictures: Tensor) -> Tensor:
        """Crop pictures [F, H, W, ...] of the size of the frames to what is no padding."""
        rows, columns = place(self.source_size, self.size, self.fit).content
        return pictures[:, rows, columns]


def describe_size(video: Video) -> str:
    """What was done to the size of the frames, in a line."""
    where = place(video.source_size, video.size, video.fit)
    steps = [f"{width_x_height(video.source_size)} at {video.fps * video.stride:.4g} fps"]
    if where.kept != video.source_size:
        steps.append(f"cropped to {width_x_height(where.kept)}")
    if where.kept != where.size:
        resized = "stretched" if video.fit == "stretch" else "resized"
        steps.append(f"{resized} to {width_x_height(where.size)}")
    if where.size != video.size:
        steps.append(f"padded to {width_x_height(video.size)}")
    return f"{', '.join(steps)} (width x height)"
