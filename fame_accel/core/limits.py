"""What options may be: ranges of numbers, and names, for flags and for options read from a file alike."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

BACKENDS = ("auto", "triton", "sdpa", "reference")
DTYPES = ("float32", "float16", "bfloat16")
FITS = ("crop", "pad", "stretch")  # how frames come to the aspect ratio of a size
AUTO = "auto"  # a stride: that of about AUTO_FPS frames per second
AUTO_FPS = 8.0
Size = tuple[int | None, int | None]  # (height, width) in pixels; None follows from the source
MAX_REGIONS = 31
MAX_PIXELS = 2**26  # of a picture that is read or made, 8192x8192: 192 MiB as RGB
WAN_TEXT_TOKENS = 512  # to which prompts of Wan are padded
VAE_SCALE_FACTOR = 8  # pixels per side of a latent, in Stable Diffusion 1, 2 and XL


@dataclass(frozen=True)
class Range:
    """Finite numbers of type `kind` from `low` to `high`, both included; a `high` of None sets no upper limit.

    A `multiple` other than 1 allows its multiples alone.
    """

    kind: type[int] | type[float]
    low: float
    high: float | None = None
    multiple: int = 1

    def __contains__(self, value: float) -> bool:
        high = sys.float_info.max if self.high is None else self.high
        return self.low <= value <= high and (self.multiple == 1 or value % self.multiple == 0)

    def __str__(self) -> str:
        """The range as it reads after "must"."""
        if self.multiple != 1:
            return f"be a positive multiple of {self.multiple}"
        if self.high is not None:
            return f"lie in {self.low} to {self.high}"
        return f"be at least {self.low}" if self.kind is int else f"be at least {self.low} and finite"

    def check(self, name: str, value: float) -> None:
        """Raise ValueError, naming `name`, unless the value lies in the range."""
        if value not in self:
            raise ValueError(f"{name} must {self}, got {value}")


COUNT = Range(int, 1)
STEPS = Range(int, 1, 1000)
SEED = Range(int, 0, 2**63 - 1)
FRACTION = Range(float, 0, 1)
STRENGTH = Range(float, 0.001, 1)  # of an edit: a share of its steps, and no more than 1000 steps
NOT_NEGATIVE = Range(float, 0)
SIDE = Range(int, VAE_SCALE_FACTOR, multiple=VAE_SCALE_FACTOR)
FPS = Range(float, 0.01, 1000)


def width_x_height(size: Sequence[int]) -> str:
    """A size, (height, width), as people who work with video write it."""
    return f"{size[1]}x{size[0]}"


def check_size(name: str, size: tuple[int, int], multiple: int = VAE_SCALE_FACTOR) -> None:
    """Raise ValueError, naming `name`, unless height and width are positive multiples of `multiple` pixels."""
    if min(size) < multiple or any(side % multiple for side in size):
        raise ValueError(f"{name} must be positive multiples of {multiple}, got {width_x_height(size)}")
