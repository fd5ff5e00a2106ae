"""What is measured: an operation at a shape."""

from __future__ import annotations

from dataclasses import dataclass

from fame_accel.core.modulation import Modulation


@dataclass(frozen=True)
class Shape:
    """Attention over the tokens of `frames` frames of height x width.

    text: key tokens of cross-attention, None for self-attention. motion: the frames of each pixel attend to each
    other, as in motion modules; pixels are then the batch. areas: shares of the frame that upright stripes take, each a
    region; None draws two boxes and the rest. main: whose every comparison comes before those of the others.
    """

    name: str
    frames: int
    height: int
    width: int
    heads: int
    head_dim: int
    text: int | None = None
    batch: int = 1
    motion: bool = False
    areas: tuple[float, ...] | None = None
    main: bool = False

    @property
    def items(self) -> int:
        """The batch of the attention."""
        return self.batch * self.height * self.width if self.motion else self.batch

    @property
    def queries(self) -> int:
        return self.frames if self.motion else self.frames * self.height * self.width

    @property
    def keys(self) -> int:
        return self.queries if self.text is None else self.text

    @property
    def regions(self) -> int:
        return 3 if self.areas is None else len(self.areas)


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

    def modulation(self, frames: int, key_frames: int) -> Modulation | None:
        if self.hard:
            return Modulation.region_mask(frames, decay=self.decay)
        if not self.pulled:
            return None
        if not self.decay:
            return Modulation.videograin(frames, key_frames)
        return Modulation.fame(frames, decay=self.decay, decay_on=self.decay_on)


PLAIN = Operation("plain")
REGION_MASK = Operation("region_mask_decay", hard=True, decay=0.1)
FAME = Operation("fame", pulled=True, decay=0.1)
VIDEOGRAIN = Operation("videograin", pulled=True)
FAME_STRENGTH = Operation("fame_strength", pulled=True, decay=0.1, decay_on="strength")
SELF = (PLAIN, REGION_MASK, FAME, VIDEOGRAIN, FAME_STRENGTH)


def operations(shape: Shape) -> tuple[Operation, ...]:
    """What can be measured at a shape: self-attention's five, or cross-attention plain and pulled."""
    return SELF if shape.text is None else (PLAIN, Operation(f"cross_{shape.text}", pulled=True))
