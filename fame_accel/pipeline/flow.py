"""Edits with models of flow matching, without inversion: FlowEdit (arXiv 2412.08629).

The source clip x is noised to the level sigma of a step, and the edit z moves by the difference of two velocities:

    source = (1 - sigma) x + sigma noise,   target = z + source - x
    z <- z + (sigma_next - sigma) (v(target; target prompt) - v(source; source prompt))

z starts as x. Where the prompts say the same, the velocities are equal and the clip stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FlowSteps:
    """The steps of an edit.

    Attributes:
        timesteps: float32 [S], as the model is given them.
        sigmas: float32 [S + 1], the noise level before each step and after the last.
    """

    timesteps: Tensor
    sigmas: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return iter(zip(self.timesteps, self.sigmas[:-1], self.sigmas[1:], strict=True))


def flow_scheduler(scheduler: SchedulerMixin) -> FlowMatchEulerDiscreteScheduler:
    """The Euler scheduler of a checkpoint's flow: its own, or one with the shift of the scheduler it replaces.

    Raises:
        ValueError: the scheduler is not one of flow matching.
    """
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return scheduler
    config: Any = scheduler.config
    if not config.get("use_flow_sigmas") or config.get("prediction_type") != "flow_prediction":
        raise ValueError(
            "scheduler must be of flow matching: a FlowMatchEulerDiscreteScheduler, or a multistep one with "
            f"use_flow_sigmas, got {type(scheduler).__name__}"
        )
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=config.num_train_timesteps, shift=config.get("flow_shift") or 1.0
    )


def flow_steps(
    scheduler: FlowMatchEulerDiscreteScheduler, num_inference_steps: int, strength: float, device: torch.device
) -> FlowSteps:
    """The last steps of the schedule, as many as `strength` says.

    Args:
        scheduler: of the model.
        num_inference_steps: steps from pure noise.
        strength: share of them that the edit takes, in (0, 1]; at least one.
        device: of the model.
    """
    scheduler.set_timesteps(num_inference_steps, device=device)
    first = num_inference_steps - max(1, round(strength * num_inference_steps))
    return FlowSteps(scheduler.timesteps[first:], scheduler.sigmas[first:].to(device))


def flow_edit_step(
    latents: Tensor, source: Tensor, noise: Tensor, step: tuple[Tensor, Tensor, Tensor], to: Velocity, of: Velocity
) -> Tensor:
    """One step of the edit.

    Args:
        latents: z, the edit so far.
        source: x, the latents of the source clip.
        noise: standard normal, of their shape.
        step: timestep, sigma and the next sigma.
        to, of: velocities of the target and of the source, from latents and timestep.
    """
    timestep, sigma, following = step
    noised = (1 - sigma) * source + sigma * noise
    difference = to((latents - source) + noised, timestep) - of(noised, timestep)
    return latents + (following - sigma) * difference
