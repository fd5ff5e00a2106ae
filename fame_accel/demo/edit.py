"""The demo's edit: the clip is inverted once under its source prompt, then edited with each backend, measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from fame_accel.demo.measure import Measurement, measured
from fame_accel.fairness import Debias

if TYPE_CHECKING:
    from fame_accel.pipeline import FameVideoEditPipeline

SOURCE_PROMPT = "a man in a suit talking in a car"
TARGET_PROMPT = "a doctor talking in a car"
REGIONS = {"person": "doctor", "background": "car"}
DEBIAS = (Debias("doctor", toward="female", eta=0.5),)


@dataclass(frozen=True)
class Run:
    """One edit: its final latents [F, 4, h, w] and what it took."""

    latents: Tensor
    measurement: Measurement


def invert(pipeline: FameVideoEditPipeline, clip: Tensor, latents: Tensor | None, backend: str, steps: int) -> Tensor:
    """Inverted latents of a clip uint8 [F, H, W, 3], whose own are `latents` [F, 4, h, w], or the VAE's for None."""
    pipeline.set_progress_bar_config(desc=f"inversion, {backend}")
    return pipeline.invert(clip, SOURCE_PROMPT, latents=latents, num_inference_steps=steps, backend=backend)


def edit(
    pipeline: FameVideoEditPipeline, clip: Tensor, masks: dict[str, Tensor], start: Tensor, backend: str, steps: int
) -> Run:
    """Edit a clip from its inverted latents, every step modulated, in the pipeline's dtype."""
    pipeline.set_progress_bar_config(desc=f"editing, {backend} in {str(pipeline.unet.dtype).removeprefix('torch.')}")
    with measured(pipeline.unet) as measurement:
        latents = pipeline(
            clip,
            TARGET_PROMPT,
            masks,
            REGIONS,
            debias=DEBIAS,
            latents=start,
            num_inference_steps=steps,
            modulated_steps=steps,
            backend=backend,
            output_type="latent",
        ).frames
    return Run(latents, measurement)
