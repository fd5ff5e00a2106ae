"""The noise of one step: UNet, ControlNet and classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fame_accel.adapter import FameHandle


@dataclass
class Conditions:
    """What a UNet and its ControlNet are told: text [B, T, C], and inputs [B, ...] by name that some also take."""

    text: Tensor
    added: dict[str, Tensor]

    def repeated(self, times: int, dtype: torch.dtype) -> Conditions:
        """Each item `times` times in a row."""
        return self._map(lambda x: x.to(dtype).repeat_interleave(times, dim=0))

    def part(self, chunk: slice) -> Conditions:
        return self._map(lambda x: x[chunk])

    def followed_by(self, other: Conditions) -> Conditions:
        added = {name: torch.cat([x, other.added[name]]) for name, x in self.added.items()}
        return Conditions(torch.cat([self.text, other.text]), added)

    def arguments(self) -> dict[str, Any]:
        """As keyword arguments of diffusers' models."""
        return {"encoder_hidden_states": self.text, "added_cond_kwargs": self.added or None}

    def _map(self, change: Callable[[Tensor], Tensor]) -> Conditions:
        return Conditions(change(self.text), {name: change(x) for name, x in self.added.items()})


@dataclass
class Control:
    """frames: conditioning [F, 3, H, W] in [0, 1], in the model's dtype; scale: its weight."""

    model: torch.nn.Module
    frames: Tensor
    scale: float
    chunk_size: int

    def residuals(self, sample: Tensor, timestep: Tensor, given: Conditions) -> dict[str, list[Tensor] | Tensor]:
        """What the ControlNet adds to the UNet, as its keyword arguments. Each image of the batch is on its own here,
        so they go through chunk_size at a time."""
        condition = self.frames.repeat(len(sample) // len(self.frames), 1, 1, 1)
        parts = [
            self.model(
                sample[chunk], timestep, controlnet_cond=condition[chunk], conditioning_scale=self.scale,
                return_dict=False, **given.part(chunk).arguments(),
            )
            for chunk in chunks(len(sample), self.chunk_size)
        ]  # fmt: skip
        down = [torch.cat(levels) for levels in zip(*(part[0] for part in parts), strict=True)]
        return {
            "down_block_additional_residuals": down,
            "mid_block_additional_residual": torch.cat([part[1] for part in parts]),
        }


class NoisePredictor:
    """Noise of latents [F, 4, h, w] at a timestep.

    positive, negative: conditions of one item; negative None is no guidance. split: guidance in two passes of the UNet,
    which takes less memory than one of twice the batch.
    """

    def __init__(
        self,
        unet: torch.nn.Module,
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
        # once: the adapter looks at new text embeddings, and only at new ones
        self.positive = positive.repeated(frames, unet.dtype)
        self.negative = None if negative is None else negative.repeated(frames, unet.dtype)
        self.both = None if negative is None or split else self.negative.followed_by(self.positive)

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """float [F, 4, h, w], in the dtype of the latents"""
        if self.negative is None:
            return self._forward(latents, timestep, self.positive)
        if self.both is not None:
            unconditional, conditional = self._forward(torch.cat([latents] * 2), timestep, self.both).chunk(2)
        else:
            with self.handle.paused():
                unconditional = self._forward(latents, timestep, self.negative)
            conditional = self._forward(latents, timestep, self.positive)
        return unconditional + self.guidance_scale * (conditional - unconditional)

    def _forward(self, sample: Tensor, timestep: Tensor, given: Conditions) -> Tensor:
        latents = sample.to(given.text.dtype)
        extra = self.control.residuals(latents, timestep, given) if self.control else {}
        noise = self.unet(latents, timestep, return_dict=False, **given.arguments(), **extra)[0]
        return noise.to(sample.dtype)


def chunks(length: int, size: int) -> list[slice]:
    """Slices of at most `size` that cover `length`."""
    return [slice(start, start + size) for start in range(0, length, size)]
