"""What is measured: an attention operation at the shape of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fame_accel.core.modulation import Modulation


@dataclass(frozen=True)
class LayerShape:
    """The shape of an attention layer over the tokens of a clip.

    Attributes:
        name: the shape's name in rows of results.
        frames: of the clip.
        height: tokens of a frame from top to bottom.
        width: tokens of a frame from left to right.
        heads: attention heads.
        head_dim: width of a head.
        text: tokens of the prompt in cross-attention; None is self-attention.
        batch: clips in the batch.
        motion: a motion module, in which each pixel attends over its own frames; pixels are then batch items.
        areas: shares of the frame that upright stripes take, one a region; None draws two boxes and the rest.
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

    @property
    def items(self) -> int:
        """Batch items of the attention."""
        return self.batch * self.height * self.width if self.motion else self.batch

    @property
    def queries(self) -> int:
        """Query tokens of a batch item."""
        return self.frames if self.motion else self.frames * self.height * self.width

    @property
    def keys(self) -> int:
        """Key tokens of a batch item."""
        return self.queries if self.text is None else self.text

    @property
    def regions(self) -> int:
        """Number of regions."""
        return 3 if self.areas is None else len(self.areas)

    @property
    def pairs(self) -> int:
        """Pairs of query and key, of all heads and batch items."""
        return self.items * self.heads * self.queries * self.keys


@dataclass(frozen=True)
class AttentionOperation:
    """A modulation by the numbers in its formula: providers without tables write the formula down themselves.

    Attributes:
        name: the operation's name in rows of results.
        excludes: whether pairs of different regions are excluded.
        modulates: whether scores move toward the extremes of their row (A is not zero).
        decay: rate of exp(-rate * |frame difference|).
        decay_on: whether the decay multiplies the "weights" (through B) or the "strength" (A).
    """

    name: str
    excludes: bool = False
    modulates: bool = False
    decay: float = 0.0
    decay_on: Literal["weights", "strength"] = "weights"

    def modulation(self, frames: int, key_frames: int) -> Modulation | None:
        """The same as tables; None is plain attention."""
        if self.excludes:
            return Modulation.region_mask(frames, decay=self.decay)
        if not self.modulates:
            return None
        if not self.decay:
            return Modulation.videograin(frames, key_frames)
        return Modulation.fame(frames, decay=self.decay, decay_on=self.decay_on)


PLAIN = AttentionOperation("plain")
REGION_MASK = AttentionOperation("region_mask_decay", excludes=True, decay=0.1)
FAME = AttentionOperation("fame", modulates=True, decay=0.1)
VIDEOGRAIN = AttentionOperation("videograin", modulates=True)
FAME_STRENGTH = AttentionOperation("fame_strength", modulates=True, decay=0.1, decay_on="strength")
SELF_ATTENTION = (PLAIN, REGION_MASK, FAME, VIDEOGRAIN, FAME_STRENGTH)


def operations(shape: LayerShape) -> tuple[AttentionOperation, ...]:
    """The operations that can be measured at a shape; of cross-attention plain and modulated."""
    return SELF_ATTENTION if shape.text is None else (PLAIN, cross_attention(shape.text))


def cross_attention(text: int) -> AttentionOperation:
    """Modulated cross-attention to `text` tokens."""
    return AttentionOperation(f"cross_{text}", modulates=True)
