"""Modulations by name, and VideoGrain's schedule: what the commands, the adapter and the pipelines take as defaults.

A new preset is one more entry of `MODULATIONS`; every command that takes --modulation then offers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fame_accel.core.modulation import Modulation

# VideoGrain (ICLR 2025, arXiv 2502.17258) modulates the first 15 of 50 steps. A row's strength is
# factor * size_regularization * ((timestep - 1) / num_train_timesteps) ** POWER.
MODULATED_SHARE = 0.3
SELF_FACTOR = 0.3
CROSS_FACTOR = 1.0
POWER = 5.0


@dataclass(frozen=True)
class Preset:
    """How a named modulation is made.

    constructor: class method of Modulation, None for plain attention. arguments: its keyword arguments besides
    num_frames. decays: whether it takes `decay`, the rate of time decay. selects_frames: whether it excludes key frames
    by their index or distance, rather than by region.
    """

    constructor: str | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    decays: bool = False
    selects_frames: bool = False


MODULATIONS = {
    "fame": Preset("fame", decays=True),
    "fame-strength": Preset("fame", {"decay_on": "strength"}, decays=True),
    "videograin": Preset("videograin"),
    "region-mask": Preset("region_mask", decays=True),
    "plain": Preset(None),
    "per-frame": Preset("frames", {"keep": "self"}, selects_frames=True),
    "first-frame": Preset("frames", {"keep": "first"}, selects_frames=True),
    "sparse-causal": Preset("frames", {"keep": "first_previous"}, selects_frames=True),
}


def make_modulation(name: str, num_frames: int, decay: float | None = None) -> Modulation:
    """The modulation of self-attention called `name`, for a clip of num_frames frames.

    Args:
        name: a key of `MODULATIONS`.
        num_frames: F of the tables [2, F, F].
        decay: rate of the time decay exp(-decay * frames apart); None is the default of the modulation's constructor.

    Raises:
        ValueError: the name is unknown, the modulation takes no decay, or a number is out of range.
    """
    from fame_accel.core.modulation import Modulation

    if name not in MODULATIONS:
        raise ValueError(f"modulation must be one of {', '.join(MODULATIONS)}, got {name!r}")
    preset = MODULATIONS[name]
    if decay is not None and not preset.decays:
        raise ValueError(f"decay must be None for {name!r}, which has no time decay, got {decay!r}")
    if preset.constructor is None:
        return Modulation()
    given = {} if decay is None else {"decay": decay}
    return getattr(Modulation, preset.constructor)(num_frames, **preset.arguments, **given)
