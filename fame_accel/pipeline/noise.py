"""The noise of one step: UNet, ControlNet and classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fame_accel.adapter import FameHandle


@dataclass
class Control:
    """frames: conditioning [F, 3, H, W] in [0, 1], in the model's dtype; scale: its weight."""

    model: torch.nn.Module
    frames: Tensor
    scale: float
    chunk_size: int

    def residuals(self, sample: Tensor, timestep: Tensor, text: Tensor) -> dict[str, list[Tensor] | Tensor]:
        """What the ControlNet adds to the UNet, as its keyword arguments. Each image of the batch is on its own here,
        so they go through chunk_size at a time."""
        condition = self.frames.repeat(len(sample) // len(self.frames), 1, 1, 1)
        parts = [
            self.model(
                sample[chunk], timestep, encoder_hidden_states=text[chunk], controlnet_cond=condition[chunk],
                conditioning_scale=self.scale, return_dict=False,
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

    positive, negative: text embeddings [1, T, C]; negative None is no guidance. split: guidance in two passes of the
    UNet, which takes less memory than one of twice the batch.
    """

    def __init__(
        self,
        unet: torch.nn.Module,
        handle: FameHandle,
        frames: int,
        positive: Tensor,
        negative: Tensor | None = None,
        guidance_scale: float = 1.0,
        split: bool = False,
        control: Control | None = None,
    ) -> None:
        self.unet, self.handle, self.control = unet, handle, control
        self.guidance_scale, self.split = guidance_scale, split
        # once: the adapter looks at new text embeddings, and only at new ones
        texts = [positive] if negative is None else [negative, positive]
        self._texts = [text.to(unet.dtype).repeat_interleave(frames, dim=0) for text in texts]
        if negative is not None and not split:
            self._texts = [torch.cat(self._texts)]

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """float [F, 4, h, w], in the dtype of the latents"""
        text = self._texts[-1]
        if len(self._texts) == 1 and len(text) == len(latents):
            return self._forward(latents, timestep, text)
        if self.split:
            with self.handle.paused():
                unconditional = self._forward(latents, timestep, self._texts[0])
            conditional = self._forward(latents, timestep, text)
        else:
            unconditional, conditional = self._forward(torch.cat([latents] * 2), timestep, text).chunk(2)
        return unconditional + self.guidance_scale * (conditional - unconditional)

    def _forward(self, sample: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        given = sample.to(text.dtype)
        extra = self.control.residuals(given, timestep, text) if self.control else {}
        noise = self.unet(given, timestep, encoder_hidden_states=text, return_dict=False, **extra)[0]
        return noise.to(sample.dtype)


def chunks(length: int, size: int) -> list[slice]:
    """Slices of at most `size` that cover `length`."""
    return [slice(start, start + size) for start in range(0, length, size)]
