"""FameConfig: everything an edit needs to know about its attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fame_accel.core.checks import check_choice, check_count, is_number, shown
from fame_accel.core.layout import SpaceTimeLayout, TokenLayout
from fame_accel.core.limits import BACKENDS
from fame_accel.core.modulation import Modulation
from fame_accel.core.presets import CROSS_FACTOR, MODULATED_SHARE, POWER, SELF_FACTOR


@dataclass(frozen=True, eq=False)
class FameConfig:
    """The attention of one edit. The defaults of factors, power and steps are VideoGrain's (arXiv 2502.17258).

    A row's strength at timestep t is factor * size_regularization * ((t - 1) / num_train_timesteps) ** power.

    Args:
        layout: regions of the clip. For a UNet, its number of frames is the number that the UNet sees as a batch. For a
            video transformer it is the number of latent frames: `SpaceTimeLayout.from_masks(masks, temporal=4)`.
        self_modulation: tables of the spatio-temporal self-attention; None leaves self-attention as it is.
        token_regions: int [T], the bitset of regions of each text token, padding included (T is 77 for Stable
            Diffusion, 512 for Wan); None leaves attention to the text as it is.
        token_weights: float [T] in [0, 1], similarity of each token to the debiasing prompt; None is 1.
        cross_modulation: tables [2, frames, 1] of cross-attention; default VideoGrain's (A = 1, B = 0).
        self_factor, cross_factor: factors of the row strengths, in [0, 1].
        power: exponent of the schedule, at least 0.
        cross_size: size_regularization in cross-attention. "tokens" is 1 - the share of text tokens that share a region
            with the pixel; "frame" is 1 - the share of the frame's pixels that do, as in VideoGrain's code.
        active_fraction: share of the timesteps, from the noisy end, that are modulated. 0.3 means timesteps from 700
            up, which are 15 of 50 steps, and which fewer than 4 steps may never reach. At the others the configured
            layers run plain attention. A video transformer counts steps instead: 0.3 means the first 30% of them.
        num_inference_steps: how many steps a run of a video transformer has, where it is called without its pipeline;
            a pipeline's scheduler knows its own.
        num_train_timesteps: of a UNet.
        levels: downsampling of the layers to configure, relative to the latents; 1 is full resolution. Self-attention
            of these layers spans all frames at every step. Layers at other levels keep their own processor. A video
            transformer has one level, and attends as it always does at steps that are not modulated.
        guidance: "conditional" modulates the conditional (last) part of a guided batch alone, "all" every part.
        backend: as in `layout_attention`.
        group: a torch.distributed process group among whose ranks the frames of a UNet are divided, in order: each
            calls the UNet with its own frames, under the layout of the whole clip. None is one process. A video
            transformer is divided by diffusers' own enable_parallelism.

    Raises:
        TypeError, ValueError: an argument has the wrong type or is out of range; the message names it.
    """

    layout: SpaceTimeLayout
    self_modulation: Modulation | None
    token_regions: Tensor | None = None
    token_weights: Tensor | None = None
    cross_modulation: Modulation | None = None
    self_factor: float = SELF_FACTOR
    cross_factor: float = CROSS_FACTOR
    power: float = POWER
    cross_size: Literal["tokens", "frame"] = "tokens"
    active_fraction: float = MODULATED_SHARE
    num_inference_steps: int = 50
    num_train_timesteps: int = 1000
    levels: tuple[int, ...] = (1, 2, 4, 8)
    guidance: Literal["conditional", "all"] = "conditional"
    backend: str = "auto"
    group: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.layout, SpaceTimeLayout):
            raise TypeError(f"layout must be a SpaceTimeLayout, got {type(self.layout).__name__}")
        frames = self.layout.num_frames
        self._check_modulation("self_modulation", (frames, frames))
        self._check_modulation("cross_modulation", (frames, 1))
        self._check_tokens()
        for name in ("self_factor", "cross_factor", "active_fraction"):
            value = getattr(self, name)
            if not (is_number(value) and 0 <= value <= 1):
                raise ValueError(f"{name} must be a number in [0, 1], got {shown(value)}")
        if not (is_number(self.power) and self.power >= 0):
            raise ValueError(f"power must be a finite number >= 0, got {shown(self.power)}")
        for name in ("num_inference_steps", "num_train_timesteps"):
            check_count(name, getattr(self, name))
        check_levels(self.levels)
        check_choice("cross_size", self.cross_size, ("tokens", "frame"))
        check_choice("guidance", self.guidance, ("conditional", "all"))
        check_choice("backend", self.backend, BACKENDS)
        if self.group is not None and not _is_group(self.group):
            raise TypeError(f"group must be a torch.distributed process group or None, got {shown(self.group)}")

    def _check_modulation(self, name: str, frames: tuple[int, int]) -> None:
        modulation = getattr(self, name)
        if modulation is None:
            return
        if not isinstance(modulation, Modulation):
            raise TypeError(f"{name} must be a Modulation or None, got {type(modulation).__name__}")
        if modulation.frames_shape not in (None, frames):
            raise ValueError(f"{name} must have tables for (query, key) frames {frames}, got {modulation.frames_shape}")

    def _check_tokens(self) -> None:
        if self.token_regions is None:
            for name in ("token_weights", "cross_modulation"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} needs token_regions, the regions of the text tokens, which is None")
            return
        if not isinstance(self.token_regions, Tensor) or self.token_regions.dim() != 1:
            raise TypeError(
                f"token_regions must be an integer tensor [tokens] or None, got {shown(self.token_regions)}"
            )
        if self.token_regions.is_meta:
            raise ValueError("token_regions must have values, got a tensor on the meta device")
        TokenLayout(self.token_regions, torch.zeros_like(self.token_regions), 1)  # checks dtype and range
        if len(self.token_regions) and int(self.token_regions.max()) >> self.layout.num_regions:
            raise ValueError(
                f"token_regions must use the layout's {self.layout.num_regions} regions, "
                f"got the bitset {int(self.token_regions.max()):#b}"
            )
        if self.token_weights is not None:
            weights, shape = self.token_weights, self.token_regions.shape
            if not isinstance(weights, Tensor) or weights.shape != shape or not weights.is_floating_point():
                raise ValueError(
                    f"token_weights must be a floating tensor of shape {tuple(shape)}, got {shown(weights)}"
                )
            if weights.is_meta:
                raise ValueError("token_weights must have values, got a tensor on the meta device")
            if not bool(((self.token_weights >= 0) & (self.token_weights <= 1)).all()):
                raise ValueError("token_weights must lie in [0, 1] without NaN")


def check_levels(levels: tuple[int, ...]) -> None:
    """ValueError unless these are levels of downsampling."""
    powers = {1 << shift for shift in range(8)}
    if not isinstance(levels, (tuple, list)) or not levels or not all(type(x) is int and x in powers for x in levels):
        raise ValueError(f"levels must be a tuple of powers of two from 1 to 128, got {shown(levels)}")


def _is_group(group: object) -> bool:
    return torch.distributed.is_available() and isinstance(group, torch.distributed.ProcessGroup)
