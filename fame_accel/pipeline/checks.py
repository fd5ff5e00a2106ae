"""Checks of an edit's arguments, made before any model runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fame_accel.core.backend import resolve_backend
from fame_accel.pipeline.frames import OUTPUT_TYPES, Frames, as_frames


def check_clip(
    frames: Frames, control_frames: Frames | None, multiple: int, has_controlnet: bool
) -> tuple[Tensor, Tensor | None]:
    """Check the clip and the conditioning of the ControlNet.

    Args:
        frames, control_frames: in any form that `as_frames` takes.
        multiple: the sides of the frames must be multiples of this number of pixels.
        has_controlnet: whether the pipeline has a ControlNet.

    Returns:
        Both as float32 [F, 3, H, W] in [0, 1].

    Raises:
        ValueError, TypeError: the argument is named.
    """
    clip = as_frames("frames", frames)
    count, _, height, width = clip.shape
    if height % multiple or width % multiple:
        raise ValueError(f"frames must have sides that are multiples of {multiple}, got {height} x {width}")
    if control_frames is None:
        if has_controlnet:
            raise ValueError("control_frames must be given: the pipeline has a ControlNet")
        return clip, None
    if not has_controlnet:
        raise ValueError("control_frames must be None: the pipeline has no ControlNet")
    control = as_frames("control_frames", control_frames)
    if control.shape != clip.shape:
        got = f"{len(control)} of {control.shape[2]} x {control.shape[3]}"
        raise ValueError(f"control_frames must be like frames, {count} of {height} x {width}, got {got}")
    return clip, control


def check_latents(latents: Tensor | None, shape: tuple[int, int, int, int]) -> None:
    """Raise ValueError unless ``latents`` is None or has the shape of the clip's latents [F, C, h, w]."""
    if latents is not None and tuple(latents.shape) != shape:
        raise ValueError(f"latents must have shape {shape} for these frames, got {tuple(latents.shape)}")


def check_counts(num_inference_steps: int, modulated_steps: int | None, chunk_size: int, max_steps: int) -> None:
    """Raise ValueError unless the numbers are ints in range. ``max_steps``: timesteps of the model's training."""
    _check_int("num_inference_steps", num_inference_steps, 1, max_steps)
    if modulated_steps is not None:
        _check_int("modulated_steps", modulated_steps, 0, num_inference_steps)
    _check_int("chunk_size", chunk_size, 1, None)


def check_first_step(first_step: int, num_inference_steps: int, latents: Tensor | None) -> None:
    """Raise ValueError unless ``first_step`` is in range, and latents are given where it is not 0."""
    _check_int("first_step", first_step, 0, num_inference_steps)
    if first_step and latents is None:
        raise ValueError(f"latents must be given with first_step={first_step}: those after that many steps")


def check_sampling(guidance_scale: float, ddim_eta: float, output_type: str, callback_inputs: Sequence[str]) -> None:
    """Raise ValueError unless guidance, noise and output are as an edit takes them."""
    if not 0 <= guidance_scale < float("inf"):
        raise ValueError(f"guidance_scale must be finite and >= 0, got {guidance_scale!r}")
    if not 0 <= ddim_eta <= 1:
        raise ValueError(f"ddim_eta must lie in [0, 1], got {ddim_eta!r}")
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}")
    if unknown := sorted(set(callback_inputs) - {"latents"}):
        raise ValueError(f"callback_on_step_end_tensor_inputs must contain nothing but 'latents', got {unknown}")


def check_backend(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise if the backend cannot run a UNet of this dtype; otherwise it would fail only after the inversion.

    Raises:
        ValueError: the backend is unknown, or the UNet is in float64, which the reference backend alone computes.
        RuntimeError: Triton is named and cannot run.
    """
    if dtype == torch.float64 and backend != "reference":
        raise ValueError(f"backend must be 'reference' for a UNet in float64, got {backend!r}")
    resolve_backend(backend, device, dtype)


def _check_int(name: str, value: int, low: int, high: int | None) -> None:
    if type(value) is not int or value < low or (high is not None and value > high):
        upper = "" if high is None else f" to {high}"
        raise ValueError(f"{name} must be an int from {low}{upper}, got {value!r}")
