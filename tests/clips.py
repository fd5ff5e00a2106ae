"""A small clip, its masks and its edit, for the tests of the pipelines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fame_accel.demo.pipeline import random_controlnet
from fame_accel.fairness import Debias
from fame_accel.media.frames import to_bytes
from fame_accel.pipeline import FameVideoEditPipeline

FRAMES, HEIGHT, WIDTH = 3, 64, 72
SOURCE, TARGET = "a man in a car", "a female doctor in a car"
REGIONS = {"person": "female doctor", "background": "car"}


def clip(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """uint8 [F, H, W, 3]: smooth noise that drifts from frame to frame."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 8, 9, generator=generator) + 0.1 * torch.rand(FRAMES, 3, 8, 9, generator=generator)
    smooth = interpolate(coarse, size=(height, width), mode="bilinear")
    return to_bytes(smooth).permute(0, 2, 3, 1).contiguous()


def masks(height: int = HEIGHT, width: int = WIDTH) -> dict[str, Tensor]:
    """A rectangle that moves to the right from frame to frame, and the rest."""
    person = torch.zeros(FRAMES, height, width, dtype=torch.bool)
    for frame in range(FRAMES):
        left = (16 + 8 * frame) * width // WIDTH
        person[frame, height // 6 : height * 4 // 5, left : left + width * 4 // 9] = True
    return {"person": person, "background": ~person}


def make_pipeline(parts: dict[str, Any], controlnet: bool = False, **changes: Any) -> FameVideoEditPipeline:
    """A pipeline of a random checkpoint's parts, without a progress bar; ``changes`` replace parts."""
    components = {name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    components["controlnet"] = random_controlnet(parts["unet"]) if controlnet else None
    pipeline = FameVideoEditPipeline(**(components | changes))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def edit(pipeline: Any, **changes: Any) -> Tensor:
    """The edited clip, by default the latents [F, 4, h, w] after 2 steps; ``changes`` are arguments of the pipeline."""
    options = dict(
        frames=clip(), prompt=TARGET, masks=masks(), regions=REGIONS, source_prompt=SOURCE,
        debias=(Debias("doctor", toward="female", eta=0.5),), num_inference_steps=2, output_type="latent",
    )  # fmt: skip
    if pipeline.controlnet is not None:
        options["control_frames"] = clip(seed=5)
    return pipeline(**(options | changes)).frames
