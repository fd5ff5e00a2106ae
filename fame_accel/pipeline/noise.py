"""The noise that a model predicts in one step: UNet, ControlNet and classifier-free guidance."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fame_accel.adapter import FameHandle


@dataclass
class Conditions:
    """What a UNet and its ControlNet are conditioned on, besides the timestep.

    Attributes:
        text: text embeddings [B, T, C].
        added: further inputs [B, ...] by name, which Stable Diffusion XL takes.
    """

    text: Tensor
    added: dict[str, Tensor]

    def repeated(self, times: int, dtype: torch.dtype) -> Conditions:
        """Repeat each item ``times`` times in a row."""
        return self._map(lambda x: x.to(dtype).repeat_interleave(times, dim=0))

    def part(self, items: slice) -> Conditions:
        """Take some items of the batch."""
        return self._map(lambda x: x[items])

    def followed_by(self, other: Conditions) -> Conditions:
        """Concatenate two batches."""
        added = {name: torch.cat([x, other.added[name]]) for name, x in self.added.items()}
        return Conditions(torch.cat([self.text, other.text]), added)

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of diffusers' models."""
        return {"encoder_hidden_states": self.text, "added_cond_kwargs": self.added or None}

    def _map(self, function: Callable[[Tensor], Tensor]) -> Conditions:
        return Conditions(function(self.text), {name: function(x) for name, x in self.added.items()})


@dataclass
class Control:
    """ControlNets and their conditioning, one of each for every network.

    Attributes:
        models: the ControlNets.
        frames: conditioning [F, 3, H, W] in [0, 1], in the model's dtype.
        scales: weight of what the ControlNet adds to the UNet.
        chunk_size: how many images pass through a ControlNet at once.
    """

    models: Sequence[Any]
    frames: Sequence[Tensor]
    scales: Sequence[float]
    chunk_size: int

    def residuals(self, sample: Tensor, timestep: Tensor, conditions: Conditions) -> dict[str, list[Tensor] | Tensor]:
        """Return what the ControlNets add to the UNet, in sum, as keyword arguments of the UNet.

        A ControlNet treats each image of the batch by itself, so the chunks do not change the result.
        """
        totals: list[Tensor] = []
        for model, frames, scale in zip(self.models, self.frames, self.scales, strict=True):
            repeated = frames.repeat(len(sample) // len(frames), 1, 1, 1)
            parts = [
                self._residuals(model, sample[chunk], timestep, conditions.part(chunk), repeated[chunk], scale)
                for chunk in chunks(len(sample), self.chunk_size)
            ]
            levels = [torch.cat(level) for level in zip(*parts, strict=True)]
            totals = [total + level for total, level in zip(totals, levels, strict=True)] if totals else levels
        return {"down_block_additional_residuals": totals[:-1], "mid_block_additional_residual": totals[-1]}

    @staticmethod
    def _residuals(
        model: Any, sample: Tensor, timestep: Tensor, conditions: Conditions, frames: Tensor, scale: float
    ) -> list[Tensor]:
        """What one ControlNet adds to each level, the middle last."""
        down, middle = model(
            sample, timestep, controlnet_cond=frames, conditioning_scale=scale, return_dict=False,
            **conditions.arguments(),
        )  # fmt: skip
        return [*down, middle]


class NoisePredictor:
    """Predicts the noise in the latents of a clip, with guidance.

    Args:
        unet: the denoising model.
        handle: the FAME attention installed on it.
        frames: number of frames F.
        positive: conditions of one item.
        negative: conditions of one item that guidance leads away from; None is no guidance.
        guidance_scale: weight of the guidance.
        split: run the two halves of guidance one after the other, which takes less memory than both at once.
        control: the ControlNet, if any.
    """

    def __init__(
        self,
        unet: Any,
        handle: FameHandle,
        frames: int,
        positive: Conditions,
        negative: Conditions | None = None,
        guidance_scale: float = 1.0,
        split: bool = False,
        control: Control | None = None,
    ) -> None:
        self.unet, self.handle, self.control = unet, handle, control
        self.guidance_scale = guidance_scale
        # repeated once per edit, as the adapter inspects text embeddings whenever they are new to it
        self.positive = positive.repeated(frames, unet.dtype)
        self.negative = None if negative is None else negative.repeated(frames, unet.dtype)
        self.both = None if self.negative is None or split else self.negative.followed_by(self.positive)

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Predict the noise of latents [F, C, h, w] at a timestep, in their shape and dtype."""
        if self.negative is None:
            return self._forward(latents, timestep, self.positive)
        if self.both is not None:
            unconditional, conditional = self._forward(torch.cat([latents] * 2), timestep, self.both).chunk(2)
        else:
            with self.handle.paused():
                unconditional = self._forward(latents, timestep, self.negative)
            conditional = self._forward(latents, timestep, self.positive)
        return unconditional + self.guidance_scale * (conditional - unconditional)

    def _forward(self, sample: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        latents = sample.to(conditions.text.dtype)
        residuals = self.control.residuals(latents, timestep, conditions) if self.control else {}
        with _variants_of_compiled_blocks():
            noise = self.unet(latents, timestep, return_dict=False, **conditions.arguments(), **residuals)[0]
        return noise.to(sample.dtype)


@contextmanager
def _variants_of_compiled_blocks() -> Iterator[None]:
    """Let torch.compile keep more than its 8 variants of the transformer blocks' code.

    The blocks share it: up to eight shapes of layers in one UNet, each in inversion and under guidance.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and its import takes seconds
        yield
        return
    from torch._dynamo import config

    with config.patch(recompile_limit=max(32, config.recompile_limit)):
        yield


def chunks(length: int, size: int) -> list[slice]:
    """Cut ``length`` items into slices of at most ``size``."""
    return [slice(start, start + size) for start in range(0, length, size)]
