"""An edit with Wan: what differs from one with Stable Diffusion, which inverts the clip first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fame_accel.core.limits import check_size
from fame_accel.core.presets import make_modulation
from fame_accel.edit.checkpoint import Checkpoint
from fame_accel.edit.inputs import EditInputs
from fame_accel.edit.options import EditOptions, flag
from fame_accel.edit.steps import SavedSteps
from fame_accel.fairness import Debias
from fame_accel.media.packages import require

_OF_STABLE_DIFFUSION = ("controlnet", "control", "latents", "ddim_eta", "split_guidance", "chunk_size")
_OF_WAN = ("strength", "source_guidance")


def check_fits_checkpoint(options: EditOptions, checkpoint: Checkpoint) -> None:
    """ValueError where options are for another kind of checkpoint, or not for the size of its tokens."""
    others, wanted = (_OF_STABLE_DIFFUSION, "Stable Diffusion") if checkpoint.is_wan else (_OF_WAN, "Wan")
    defaults = EditOptions.__dataclass_fields__
    for name in others:
        if getattr(options, name) != defaults[name].default:
            raise ValueError(f"{flag(name)} is for a checkpoint of {wanted}: leave it out with {checkpoint.folder}")
    if options.size is not None:
        check_size("--size", options.size, checkpoint.multiple)
    for name in ("width", "height"):
        side = getattr(options, name)
        if side is not None and side % checkpoint.multiple:
            raise ValueError(
                f"{flag(name)} must be a multiple of {checkpoint.multiple} for this checkpoint, got {side}"
            )
    beyond = (options.frames - 1) % checkpoint.temporal
    if beyond:
        fewer = options.frames - beyond
        raise ValueError(
            f"--frames must be 1 + a multiple of {checkpoint.temporal} for this checkpoint, got {options.frames}: take "
            f"{fewer} or {fewer + checkpoint.temporal}"
        )


def edit_with_wan(
    pipeline: Any,
    options: EditOptions,
    inputs: EditInputs,
    debias: list[Debias],
    steps: SavedSteps,
    timed: Callable[..., Any],
) -> Any:
    """The pipeline's output, frames float [F, 3, H, W] in [0, 1]."""
    frames = inputs.video.frames
    latent_frames = 1 + (options.frames - 1) // pipeline.vae.config.scale_factor_temporal
    own = {"strength": options.strength, "source_guidance_scale": options.source_guidance}
    with _progress(pipeline, options.steps):
        return timed(
            "editing",
            lambda: pipeline(
                frames,
                options.prompt,
                dict(zip(inputs.names, inputs.masks, strict=True)),
                dict(options.region),
                options.source_prompt,
                options.negative_prompt,
                debias=debias,
                num_inference_steps=options.steps,
                modulated_steps=options.modulated_steps,
                guidance_scale=options.guidance,
                modulation=make_modulation(options.modulation, latent_frames, options.decay),
                rest=not options.no_rest,
                generator=steps.generator,
                latents=steps.latents,
                first_step=steps.edited,
                backend=options.backend,
                output_type="pt",
                callback_on_step_end=steps.after_editing,
                **{name: value for name, value in own.items() if value is not None},
            ),
        )


@contextmanager
def _progress(pipeline: Any, steps: int) -> Iterator[None]:
    """Show a tqdm bar that counts the passes of the clip through a transformer."""
    pipeline.set_progress_bar_config(disable=True)
    with require("tqdm", "diffusers").tqdm(unit="pass", desc="editing") as bar:

        def count(_module: torch.nn.Module, _inputs: tuple[Tensor, ...], _output: Any) -> None:
            bar.update()

        models = [model for model in (pipeline.transformer, pipeline.transformer_2) if model is not None]
        hooks = [model.register_forward_hook(count) for model in models]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
