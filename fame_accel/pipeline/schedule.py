"""DDIM in both directions, and which of its steps are modulated."""

from __future__ import annotations

import logging
from typing import Any

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, SchedulerMixin

from fame_accel.pipeline.supported import check_part

_SPACINGS = ("leading", "trailing")  # which DDIMInverseScheduler has
logger = logging.getLogger(__name__)


def ddim(scheduler: SchedulerMixin) -> DDIMScheduler:
    """Return a DDIM scheduler that inversion can run backward.

    The given scheduler is returned if it is one. Otherwise a DDIMScheduler with its noise schedule replaces it, with
    a logged warning: if it is of another class, clips latents to [-1, 1] (DDIMScheduler's default), thresholds them,
    which is meant for pixels, or spaces its timesteps as "linspace", which has no inverse. In place of "linspace" comes
    "leading", or "trailing" for a schedule without signal at its last timestep.

    Raises:
        ValueError: the scheduler is not of Stable Diffusion, such as one of flow matching.
    """
    check_part("scheduler", scheduler)
    changes: dict[str, Any] = {"clip_sample": False}
    # set only if it was on: DDIMInverseScheduler warns of settings it does not know, unless they have their default
    changes |= {"thresholding": False} if scheduler.config.get("thresholding") else {}
    if scheduler.config.get("timestep_spacing", "leading") not in _SPACINGS:
        changes["timestep_spacing"] = "trailing" if scheduler.config.get("rescale_betas_zero_snr") else "leading"
    result = DDIMScheduler.from_config(scheduler.config, **changes)
    if isinstance(scheduler, DDIMScheduler) and scheduler.config == result.config:
        return scheduler
    logger.warning(
        "%s is replaced by a DDIMScheduler of its noise schedule, with timestep_spacing %s: inversion needs it",
        _name(scheduler), result.config.timestep_spacing,
    )  # fmt: skip
    return result


def inverse(scheduler: DDIMScheduler, steps: int, device: torch.device) -> DDIMInverseScheduler:
    """Return the inverse of ``scheduler``, set to ``steps`` steps; ValueError where the steps end beyond the timesteps
    of training."""
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
    wrong = [name for name in ("clip_sample", "thresholding") if scheduler.config.get(name)]
    if (spacing := scheduler.config.timestep_spacing) not in _SPACINGS:
        wrong.append(f"timestep_spacing {spacing}")
    return f"DDIMScheduler with {', '.join(wrong)}"
