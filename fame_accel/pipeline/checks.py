"""Checks of an edit's arguments, made before any model runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fame_accel.core.backend import resolve_backend
from fame_accel.core.checks import check_choice, check_flag, is_number, shown
from fame_accel.pipeline.frames import OUTPUT_TYPES, Frames, as_frames

# Hooks of diffusers that move or cast weights; its others skip layers or reuse their results.
HOOKS = frozenset(
    ("group_offloading", "lazy_prefetch_group_offloading", "layer_execution_tracker", "layerwise_casting")
) | {"peft_autocast_disable"}


def check_clip(
    frames: Frames, control_frames: Frames | Sequence[Frames] | None, multiple: int, controlnets: int
) -> tuple[Tensor, list[Tensor]]:
    """Check the clip and the conditioning of the ControlNets.

    Args:
        frames: in any form that `as_frames` takes.
        control_frames: likewise; for several ControlNets a list with one such clip for each.
        multiple: the sides of the frames must be multiples of this number of pixels.
        controlnets: how many the pipeline has.

    Returns:
        The clip, and the conditioning of each ControlNet, as float32 [F, 3, H, W] in [0, 1].

    Raises:
        ValueError, TypeError: the argument is named.
    """
    clip = as_frames("frames", frames)
    count, _, height, width = clip.shape
    if height % multiple or width % multiple:
        raise ValueError(f"frames must have sides that are multiples of {multiple}, got {height} x {width}")
    if control_frames is None:
        if controlnets:
            raise ValueError("control_frames must be given: the pipeline has a ControlNet")
        return clip, []
    if not controlnets:
        raise ValueError("control_frames must be None: the pipeline has no ControlNet")
    given: Sequence[Any] = [control_frames]
    if controlnets > 1:
        given = control_frames if isinstance(control_frames, (list, tuple)) else given
        if len(given) != controlnets:
            raise ValueError(f"control_frames must be a list of {controlnets} clips, one per network, got {len(given)}")
    controls = [as_frames("control_frames", one) for one in given]
    for control in controls:
        if control.shape != clip.shape:
            got = f"{len(control)} of {control.shape[2]} x {control.shape[3]}"
            raise ValueError(f"control_frames must be like frames, {count} of {height} x {width}, got {got}")
    return clip, controls


def as_scales(scale: float | Sequence[float], controlnets: int) -> list[float]:
    """controlnet_conditioning_scale for each ControlNet: one number for all, or a list of as many."""
    if not isinstance(scale, (int, float, list, tuple)):
        raise TypeError(f"controlnet_conditioning_scale must be a number or a list of numbers, got {shown(scale)}")
    scales = [scale] * controlnets if isinstance(scale, (int, float)) else list(scale)
    if len(scales) != controlnets:
        raise ValueError(
            f"controlnet_conditioning_scale must be a number or {controlnets} in a list, one per network, "
            f"got {shown(scale)}"
        )
    if not all(is_number(one) for one in scales):
        raise ValueError(f"controlnet_conditioning_scale must be finite, got {shown(scale)}")
    return [float(one) for one in scales]


def check_finite(what: str, values: Tensor, dtype: torch.dtype, when: str) -> None:
    """Raise RuntimeError where values hold NaN or infinity, naming when they became so and the dtype of the model."""
    if not bool(values.isfinite().all()):
        remedy = "use bfloat16 or float32 (--dtype)" if dtype == torch.float16 else "the weights may be damaged"
        name = str(dtype).removeprefix("torch.")
        raise RuntimeError(f"{what} became infinite or NaN at {when} in {name}: {remedy}")


# Arguments of diffusers' pipelines that an edit has no use for, and what serves instead.
_INSTEAD = {
    "num_images_per_prompt": "an edit gives one clip: call again with another generator or seed",
    "num_videos_per_prompt": "an edit gives one clip: call again with another generator or seed",
    "height": "the edit has the size of frames: resize these",
    "width": "the edit has the size of frames: resize these",
    "eta": "the share of fresh noise is ddim_eta, the strength of debiasing is Debias.eta",
    "prompt_embeds": "give prompt: regions and debiasings need its tokens",
    "negative_prompt_embeds": "give negative_prompt",
    "cross_attention_kwargs": "set the scale of a LoRA with set_adapters",
    "ip_adapter_image": "IP-Adapters are not supported: unload them",
    "image": "give frames",
    "strength": "an edit inverts the clip wholly: fewer modulated_steps or a lower guidance_scale change it less",
    "controlnet_image": "give control_frames",
}


def refuse_unsupported(arguments: Mapping[str, Any]) -> None:
    """Raise TypeError where there are arguments, saying what to do instead."""
    for name in arguments:
        remedy = _INSTEAD.get(name, "see the documentation of the call for its arguments")
        raise TypeError(f"the edit takes no argument {name!r}: {remedy}")


def check_latents(latents: Tensor | None, shape: tuple[int, int, int, int]) -> None:
    """Raise unless ``latents`` is None or a finite floating tensor of the shape of the clip's latents [F, C, h, w]."""
    if latents is None:
        return
    if not isinstance(latents, Tensor) or not latents.is_floating_point():
        raise TypeError(f"latents must be a floating tensor or None, got {shown(latents)}")
    if tuple(latents.shape) != shape:
        raise ValueError(f"latents must have shape {shape} for these frames, got {tuple(latents.shape)}")
    if latents.is_meta:
        raise ValueError("latents must have values, got a tensor on the meta device")
    if not bool(latents.isfinite().all()):
        raise ValueError("latents must be finite, got NaN or infinity")


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
    if not (is_number(guidance_scale) and guidance_scale >= 0):
        raise ValueError(f"guidance_scale must be a finite number >= 0, got {shown(guidance_scale)}")
    if not (is_number(ddim_eta) and 0 <= ddim_eta <= 1):
        raise ValueError(f"ddim_eta must be a number in [0, 1], got {shown(ddim_eta)}")
    check_choice("output_type", output_type, OUTPUT_TYPES)
    names = callback_inputs
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"callback_on_step_end_tensor_inputs must be a sequence of names, got {shown(names)}")
    if unknown := sorted(set(callback_inputs) - {"latents"}):
        raise ValueError(f"callback_on_step_end_tensor_inputs must contain nothing but 'latents', got {unknown}")


def check_generator(generator: torch.Generator | Sequence[torch.Generator] | None, frames: int) -> None:
    """Raise unless the generator is None, one for the clip, or a list with one for each frame."""
    given = generator if isinstance(generator, (list, tuple)) else [generator] * frames
    if len(given) != frames:
        raise ValueError(f"generator must be one, or a list of {frames}, one a frame, got {len(given)}")
    if not all(one is None or isinstance(one, torch.Generator) for one in given):
        raise TypeError(f"generator must be a torch.Generator or a list of them, got {shown(generator)}")


def check_callback(callback_on_step_end: Callable[..., Any] | None) -> None:
    """Raise TypeError unless the callback is None or can be called; otherwise it would fail only after a step."""
    if callback_on_step_end is not None and not callable(callback_on_step_end):
        raise TypeError(f"callback_on_step_end must be a function or None, got {shown(callback_on_step_end)}")


def check_clip_skip(clip_skip: int | None) -> None:
    """Raise ValueError unless this is None or a number of layers; the encoders check that they have as many."""
    if clip_skip is not None:
        _check_int("clip_skip", clip_skip, 0, None)


def check_flags(**flags: bool) -> None:
    """Raise TypeError unless every one is True or False, naming it."""
    for name, value in flags.items():
        check_flag(name, value)


def check_backend(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise if the backend cannot run a UNet of this dtype; otherwise it would fail only after the inversion.

    Raises:
        ValueError: the backend is unknown, or the UNet is in float64, which the reference backend alone computes.
        RuntimeError: Triton is named and cannot run.
    """
    if dtype == torch.float64 and backend != "reference":
        raise ValueError(f"backend must be 'reference' for a UNet in float64, got {backend!r}")
    resolve_backend(backend, device, dtype)


def check_intact(unet: Any) -> None:
    """Raise RuntimeError where something takes the place of a UNet's attention, or skips it."""
    unet = getattr(unet, "_orig_mod", unet)
    for name, processor in unet.attn_processors.items():
        if "IPAdapter" in type(processor).__name__:
            raise RuntimeError(f"unet: {name} is of an IP-Adapter, which an edit does not support: unload_ip_adapter()")
    for name, module in unet.named_modules(prefix="unet"):
        hooks = set(getattr(getattr(module, "_diffusers_hook", None), "hooks", ())) - HOOKS
        if hooks:
            raise RuntimeError(f"{name} has {', '.join(hooks)}, which skips attention: disable_cache() removes it")
        if "forward" in vars(module) and not {"_hf_hook", "_diffusers_hook"} & set(dir(module)):
            raise RuntimeError(f"{name}.forward was replaced, as DeepCache does, which skips attention: disable it")


def _check_int(name: str, value: int, low: int, high: int | None) -> None:
    if type(value) is not int or value < low or (high is not None and value > high):
        upper = "" if high is None else f" to {high}"
        raise ValueError(f"{name} must be an int from {low}{upper}, got {shown(value)}")
