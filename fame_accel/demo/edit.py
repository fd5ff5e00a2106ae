"""The demo's edit: DDIM inversion of the clip under the source prompt, then denoising under the target prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fame_accel.adapter import FameConfig, apply_fame
from fame_accel.demo.measure import Measurement, measured
from fame_accel.fairness.tokens import token_regions
from fame_accel.layout import SpaceTimeLayout
from fame_accel.media.packages import require
from fame_accel.modulation import Modulation

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SOURCE_PROMPT = "a man in a suit talking in a car"
TARGET_PROMPT = "a female doctor talking in a car"
PERSON, BACKGROUND = 0b01, 0b10
BINDINGS = {"female doctor": PERSON, "car": BACKGROUND}
GUIDANCE = 7.5


@dataclass(frozen=True)
class Run:
    """One edit: its final latents [F, 4, h, w] and what it took."""

    latents: Tensor
    measurement: Measurement


def fame_config(pipeline: StableDiffusionPipeline, masks: Tensor, backend: str) -> FameConfig:
    """FAME's default modulation at every step, with the profession and its debiasing token bound to the person.

    masks: bool [2, F, H, W], person and background. The bound tokens have weight 1 and the others 0, where FAME has
    their similarity to the debiasing prompt: that takes a trained text encoder.
    """
    regions = token_regions(pipeline.tokenizer, TARGET_PROMPT, BINDINGS)
    return FameConfig(
        SpaceTimeLayout.from_masks(masks),
        Modulation.fame(masks.shape[1]),
        token_regions=regions,
        token_weights=(regions != 0).float(),
        active_fraction=1.0,
        backend=backend,
    )


@torch.no_grad()
def invert(pipeline: StableDiffusionPipeline, latents: Tensor, config: FameConfig, steps: int) -> Tensor:
    """DDIM inversion of clean latents [F, 4, h, w] under the source prompt, with plain spatio-temporal attention."""
    diffusers, tqdm = require("diffusers"), require("tqdm")
    scheduler = diffusers.DDIMInverseScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(steps, device=latents.device)
    text, _ = pipeline.encode_prompt(SOURCE_PROMPT, latents.device, 1, False)
    text = text.expand(len(latents), -1, -1)
    plain = replace(config, active_fraction=0.0, token_regions=None, token_weights=None, cross_modulation=None)
    with apply_fame(pipeline, plain):
        for timestep in tqdm.tqdm(scheduler.timesteps, desc="inverting the clip"):
            noise = pipeline.unet(latents, timestep, encoder_hidden_states=text).sample
            latents = scheduler.step(noise, timestep, latents).prev_sample
    return latents


def edit(pipeline: StableDiffusionPipeline, latents: Tensor, config: FameConfig, steps: int, title: str) -> Run:
    """Denoise inverted latents [F, 4, h, w] under the target prompt, in the pipeline's dtype, measured."""
    pipeline.set_progress_bar_config(desc=title)
    with apply_fame(pipeline, config), measured(pipeline.unet) as measurement:
        result = pipeline(
            [TARGET_PROMPT] * len(latents),
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            height=8 * latents.shape[2],
            width=8 * latents.shape[3],
            latents=latents.to(pipeline.unet.dtype),
            output_type="latent",
        )
    return Run(result.images, measurement)
