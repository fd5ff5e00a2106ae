"""The edit of the demo: the clip is inverted once under its source prompt, then edited and measured with each
backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fame_accel.demo.measure import Measurement, measured
from fame_accel.fairness import Debias

SOURCE_PROMPT = "a man in a suit talking in a car"
TARGET_PROMPT = "a doctor talking in a car"
REGIONS = {"person": "doctor", "background": "car"}
DEBIAS = (Debias("doctor", toward="female", eta=0.5),)


@dataclass(frozen=True)
class Run:
    """One edit: its final latents [F, 4, h, w], its time and its memory."""

    latents: Tensor
    measurement: Measurement


def invert(pipeline: Any, clip: Tensor, latents: Tensor | None, backend: str, steps: int) -> Tensor:
    """Invert a clip.

    Args:
        pipeline: a FameVideoEditPipeline.
        clip: uint8 [F, H, W, 3].
        latents: of the clip, [F, 4, h, w]; None encodes the clip with the VAE.
        backend: of attention.
        steps: number of steps.

    Returns:
        The inverted latents [F, 4, h, w].
    """
    pipeline.set_progress_bar_config(desc=f"inversion, {backend}")
    return pipeline.invert(clip, SOURCE_PROMPT, latents=latents, num_inference_steps=steps, backend=backend)


def edit(pipeline: Any, clip: Tensor, masks: dict[str, Tensor], start: Tensor, backend: str, steps: int) -> Run:
    """Edit a clip from its inverted latents `start`, in the pipeline's dtype, with every step modulated."""
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
