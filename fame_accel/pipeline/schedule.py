"""DDIM in both directions, and which of its steps are modulated."""

from __future__ import annotations

import logging

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, SchedulerMixin

logger = logging.getLogger(__name__)


def ddim(scheduler: SchedulerMixin) -> DDIMScheduler:
    """Return a DDIM scheduler that inversion can run backward.

    The given scheduler is returned if it is one. Otherwise a DDIMScheduler with its noise schedule replaces it, with
    a logged warning: if it is of another class, clips latents to [-1, 1] (DDIMScheduler's default), or thresholds
    them, which is meant for pixels.
    """
    if isinstance(scheduler, DDIMScheduler) and not (scheduler.config.clip_sample or scheduler.config.thresholding):
        return scheduler
    logger.warning("%s is replaced by a DDIMScheduler of its noise schedule: inversion needs it", _name(scheduler))
    # set only if it was on: DDIMInverseScheduler warns of settings it does not know, unless they have their default
    thresholding = {"thresholding": False} if scheduler.config.get("thresholding") else {}
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False, **thresholding)


def inverse(scheduler: DDIMScheduler, steps: int, device: torch.device) -> DDIMInverseScheduler:
    """Return the inverse of ``scheduler``, set to ``steps`` steps.

    Raises:
        ValueError: the scheduler's timestep_spacing has no inverse, or the steps end beyond the timesteps of training.
    """
    spacing = scheduler.config.timestep_spacing
    if spacing not in ("leading", "trailing"):
        raise ValueError(f"the scheduler's timestep_spacing must be leading or trailing for inversion, got {spacing!r}")
    result = DDIMInverseScheduler.from_config(scheduler.config)
    result.set_timesteps(steps, device=device)
    trained = scheduler.config.num_train_timesteps
    if (last := int(result.timesteps.max())) >= trained:
        raise ValueError(
            f"num_inference_steps must be fewer: with the scheduler's steps_offset, the {steps} steps end at timestep "
            f"{last} of a model trained on 0 to {trained - 1}"
        )
    return result


def active_fraction(timesteps: torch.Tensor, modulated_steps: int, num_train_timesteps: int) -> float:
    """Return the fraction of the training timesteps, from the noisy end, that holds the first ``modulated_steps``.

    The boundary lies halfway between the last modulated and the first plain timestep.
    """
    if modulated_steps in (0, len(timesteps)):
        return modulated_steps / len(timesteps)
    last, after = (int(timesteps[i]) for i in (modulated_steps - 1, modulated_steps))
    return 1 - (last + after) / 2 / num_train_timesteps


def _name(scheduler: SchedulerMixin) -> str:
    if not isinstance(scheduler, DDIMScheduler):
        return type(scheduler).__name__
    return "DDIMScheduler with " + ("clip_sample" if scheduler.config.clip_sample else "thresholding")
