"""apply_fame and restore_fame: for whichever model."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel

from fame_accel.adapter.config import FameConfig
from fame_accel.adapter.families import FAMILIES, VideoFamily
from fame_accel.adapter.handle import FameHandle, handle_of, uncompiled
from fame_accel.adapter.motion import MOTION_FAMILIES, MotionFamily
from fame_accel.adapter.unet import apply_to_unet
from fame_accel.adapter.video_model import FameVideoHandle


def apply_fame(
    model_or_pipeline: Any, config: FameConfig, *, family: VideoFamily | MotionFamily | None = None
) -> FameHandle:
    """Give a model, or the models of a pipeline, FAME attention. Needs the `diffusers` extra.

    A model wrapped by torch.compile, compiled in place, or with compile_repeated_blocks, keeps its compiled code from
    step to step and from clip to clip.

    Args:
        model_or_pipeline: a diffusers UNet2DConditionModel; a video transformer, such as Wan's, HunyuanVideo's,
            CogVideoX's or LTX's; a UNet of AnimateDiff or of Stable Video Diffusion; or a pipeline with one of them as
            `.unet` or `.transformer`, and with a second one as `.transformer_2`. A UNet2DConditionModel must be called
            with the frames of the clip as its batch: a list with the prompt once per frame.
        config: the regions, modulations and schedule of the edit.
        family: how a model is built that is not in the tables.

    Returns:
        A handle with `.restore()`, usable in a `with` statement.

    Raises:
        TypeError: another model.
        RuntimeError: FAME attention is installed already, or could not work with the processors that are.
    """
    if not isinstance(config, FameConfig):
        raise TypeError(f"config must be a FameConfig, got {type(config).__name__}")
    if family is not None and not isinstance(family, (VideoFamily, MotionFamily)):
        raise TypeError(f"family must be a VideoFamily, a MotionFamily or None, got {type(family).__name__}")
    if config.self_modulation is None and config.token_regions is None:
        raise ValueError("config modulates neither self- nor cross-attention: set self_modulation or token_regions")
    called = _denoiser(model_or_pipeline)
    model = uncompiled(called)
    if isinstance(model, UNet2DConditionModel) and family is None:
        return apply_to_unet(called, model, config)
    family = _family_of(model) if family is None else family
    if family is None or not isinstance(model, torch.nn.Module):
        raise TypeError(
            "model_or_pipeline must be a UNet2DConditionModel, a video transformer that fame_accel knows, or a "
            f"pipeline with one, got {type(model_or_pipeline).__name__}; family=VideoFamily(...) describes another"
        )
    if config.group is not None:
        raise ValueError("group must be None for a video transformer: divide it by its own enable_parallelism()")
    has_text = family.cross if isinstance(family, MotionFamily) else family.text
    if config.token_regions is not None and has_text is None:
        raise ValueError(f"token_regions must be None: {family.name} attends to no prompt")
    if handle_of(model) is not None:
        raise RuntimeError("FAME attention is installed already: restore() its handle, or call restore_fame(), first")
    if not hasattr(model, "config"):
        raise TypeError(f"model_or_pipeline must be a model of diffusers, with a config, got {type(model).__name__}")
    pipeline = None if called is model_or_pipeline else model_or_pipeline
    second = getattr(pipeline, "transformer_2", None)
    return FameVideoHandle([called] if second is None else [called, second], family, config, pipeline)


def restore_fame(model_or_pipeline: Any) -> None:
    """Undo `apply_fame` without its handle; does nothing where FAME attention is not installed."""
    model = _denoiser(model_or_pipeline)
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"model_or_pipeline must be a model of diffusers or a pipeline with one, got {type(model).__name__}"
        )
    handle = handle_of(model)
    if handle is not None:
        handle.restore()


def _family_of(model: object) -> VideoFamily | MotionFamily | None:
    """The family of a model, by the name of its class; None where it has none."""
    names = {cls.__name__ for cls in type(model).__mro__}
    return next((family for family in (*FAMILIES, *MOTION_FAMILIES) if names & set(family.models)), None)


def _denoiser(model_or_pipeline: Any) -> Any:
    """The model that a pipeline calls in each step; a model itself."""
    for name in ("unet", "transformer"):
        model = getattr(model_or_pipeline, name, None)
        if model is not None:
            return model
    return model_or_pipeline
