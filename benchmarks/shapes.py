"""The shapes and operations of the GPU round, most informative first.

Self-attention of all frames as layers of real models have it (batch 2 for classifier-free guidance), and
cross-attention to text. SD 1.5 at 512 x 512 has 64 x 64, 32 x 32, 16 x 16 and 8 x 8 tokens a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import fame_accel as fa


@dataclass(frozen=True)
class Shape:
    """frames of size x size query tokens; text: key tokens of cross-attention, None for self-attention.

    main: shapes whose every comparison comes before those of the others.
    """

    name: str
    frames: int
    size: int
    heads: int
    head_dim: int
    text: int | None = None
    batch: int = 2
    main: bool = False

    @property
    def queries(self) -> int:
        return self.frames * self.size**2

    @property
    def keys(self) -> int:
        return self.queries if self.text is None else self.text


@dataclass(frozen=True)
class Operation:
    """A modulation by its formula, which providers without tables write down themselves.

    hard: other regions are excluded; pulled: A is not zero; decay: rate of exp(-rate * |frame difference|), on the
    weights (B) or on the strength (A).
    """

    name: str
    hard: bool = False
    pulled: bool = False
    decay: float = 0.0
    decay_on: str = "weights"

    def modulation(self, frames: int, key_frames: int) -> fa.Modulation | None:
        if self.hard:
            return fa.Modulation.region_mask(frames, decay=self.decay)
        if not self.pulled:
            return None
        if not self.decay:
            return fa.Modulation.videograin(frames, key_frames)
        return fa.Modulation.fame(frames, decay=self.decay, decay_on=self.decay_on)


PLAIN = Operation("plain")
SELF = (
    PLAIN,
    Operation("region_mask_decay", hard=True, decay=0.1),
    Operation("fame", pulled=True, decay=0.1),
    Operation("videograin", pulled=True),
    Operation("fame_strength", pulled=True, decay=0.1, decay_on="strength"),
)


def operations(shape: Shape) -> tuple[Operation, ...]:
    """What is timed at a shape."""
    return SELF if shape.text is None else (PLAIN, Operation(f"cross_{shape.text}", pulled=True))


def _sd15(size: int, head_dim: int, frames: int, **options: object) -> Shape:
    return Shape(f"sd15-{size}x{size}-f{frames}", frames, size, 8, head_dim, **options)


_LEVELS = ((64, 40), (32, 80), (16, 160), (8, 160))  # (size, head_dim)
SHAPES = (
    _sd15(64, 40, 8, main=True),
    _sd15(32, 80, 8, main=True),
    Shape("sdxl-64x64-f8", 8, 64, 10, 64, main=True),
    Shape("wan-32x32-f21", 21, 32, 12, 128, main=True),  # 81 frames at 512 x 512
    Shape("sd15-64x64-f8-text77", 8, 64, 8, 40, text=77, main=True),
    Shape("wan-32x32-f21-text512", 21, 32, 12, 128, text=512, main=True),
    *(_sd15(size, head_dim, 8) for size, head_dim in _LEVELS[2:]),
    *(_sd15(size, head_dim, 16) for size, head_dim in _LEVELS),
    *(_sd15(size, head_dim, 32) for size, head_dim in reversed(_LEVELS)),  # the slowest last
    Shape("sdxl-32x32-f8", 8, 32, 20, 64),
    Shape("sd15-32x32-f8-text77", 8, 32, 8, 80, text=77),
    Shape("sdxl-64x64-f8-text77", 8, 64, 10, 64, text=77),
)
TOYS = (
    Shape("toy-4x4-f2", 2, 4, 1, 40, batch=1, main=True),
    Shape("toy-3x3-f2-text9", 2, 3, 1, 16, text=9, batch=1),
)
BY_NAME = {shape.name: shape for shape in (*SHAPES, *TOYS)}
