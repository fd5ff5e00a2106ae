"""DDIM in both directions, and which of its steps are modulated."""

from __future__ import annotations

import logging

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, SchedulerMixin

logger = logging.getLogger(__name__)


def ddim(scheduler: SchedulerMixin) -> DDIMScheduler:
    """The checkpoint's scheduler, or where it is another kind a DDIMScheduler of the same noise schedule.

    Inversion needs DDIM, and latents must not be clipped to [-1, 1], DDIMScheduler's default, nor thresholded, which
    is for pixels.
    """
    if isinstance(scheduler, DDIMScheduler) and not (scheduler.config.clip_sample or scheduler.config.thresholding):
        return scheduler
    logger.warning("%s is replaced by a DDIMScheduler of its noise schedule: inversion needs it", _name(scheduler))
    # named only where it is set: what is not left at its default, DDIMInverseScheduler warns that it does not know
    thresholding = {"thresholding": False} if scheduler.config.get("thresholding") else {}
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False, **thresholding)


def inverse(scheduler: DDIMScheduler, steps: int, device: torch.device) -> DDIMInverseScheduler:
    """The inverse of `scheduler` over `steps` steps; ValueError for a spacing of steps that it does not have."""
    spacing = scheduler.config.timestep_spacing
    if spacing not in ("leading", "trailing"):
        raise ValueError(f"the scheduler's timestep_spacing must be leading or trailing for inversion, got {spacing!r}")
    result = DDIMInverseScheduler.from_config(scheduler.config)
    result.set_timesteps(steps, device=device)
    most = scheduler.config.num_train_timesteps
    if (last := int(result.timesteps.max())) >= most:
        raise ValueError(
            f"num_inference_steps must be fewer: with the scheduler's steps_offset, the {steps} steps end at timestep "
            f"{last} of a model trained on 0 to {most - 1}"
        )
    return result


def active_fraction(timesteps: torch.Tensor, modulated_steps: int, num_train_timesteps: int) -> float:
    """The share of the training timesteps, from the noisy end, in which just the first modulated_steps lie."""
    if modulated_steps in (0, len(timesteps)):
        return modulated_steps / len(timesteps)
    last, after = (int(timesteps[i]) for i in (modulated_steps - 1, modulated_steps))
    return 1 - (last + after) / 2 / num_train_timesteps


def _name(scheduler: SchedulerMixin) -> str:
    if not isinstance(scheduler, DDIMScheduler):
        return type(scheduler).__name__
    return "DDIMScheduler with " + ("clip_sample" if scheduler.config.clip_sample else "thresholding")
