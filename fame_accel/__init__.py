"""Fused attention modulated by regions, time and fairness, for diffusion video editing.

Names are imported on first use, torch with them. The adapter's and the pipelines' need the `diffusers` extra.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from fame_accel._version import __version__

if TYPE_CHECKING:
    from fame_accel import reference
    from fame_accel.adapter import (
        AttentionHook,
        FameConfig,
        FameCrossAttnProcessor,
        FameHandle,
        FameSelfAttnProcessor,
        MotionFamily,
        VideoFamily,
        apply_fame,
        hook_attention,
        restore_fame,
    )
    from fame_accel.core.attention import layout_attention
    from fame_accel.core.distributed import ulysses_attention
    from fame_accel.core.layout import SpaceTimeLayout, TokenLayout
    from fame_accel.core.mass import attention_mass
    from fame_accel.core.merging import merge_attention
    from fame_accel.core.modulation import Modulation, time_weights
    from fame_accel.core.planning import AttentionPlan, plan_attention
    from fame_accel.pipeline import FameVideoEditPipeline, FameVideoEditXLPipeline, FameWanVideoEditPipeline

__all__ = [
    "AttentionHook",
    "AttentionPlan",
    "FameConfig",
    "FameCrossAttnProcessor",
    "FameHandle",
    "FameSelfAttnProcessor",
    "FameVideoEditPipeline",
    "FameVideoEditXLPipeline",
    "FameWanVideoEditPipeline",
    "Modulation",
    "MotionFamily",
    "SpaceTimeLayout",
    "TokenLayout",
    "VideoFamily",
    "__version__",
    "apply_fame",
    "attention_mass",
    "hook_attention",
    "layout_attention",
    "merge_attention",
    "plan_attention",
    "reference",
    "restore_fame",
    "time_weights",
    "ulysses_attention",
]

# The module that each name comes from.
_LAZY = {
    "AttentionHook": "adapter",
    "AttentionPlan": "core.planning",
    "FameConfig": "adapter",
    "FameCrossAttnProcessor": "adapter",
    "FameHandle": "adapter",
    "FameSelfAttnProcessor": "adapter",
    "FameVideoEditPipeline": "pipeline",
    "FameVideoEditXLPipeline": "pipeline",
    "FameWanVideoEditPipeline": "pipeline",
    "Modulation": "core.modulation",
    "SpaceTimeLayout": "core.layout",
    "TokenLayout": "core.layout",
    "MotionFamily": "adapter",
    "VideoFamily": "adapter",
    "apply_fame": "adapter",
    "attention_mass": "core.mass",
    "hook_attention": "adapter",
    "layout_attention": "core.attention",
    "merge_attention": "core.merging",
    "plan_attention": "core.planning",
    "restore_fame": "adapter",
    "time_weights": "core.modulation",
    "ulysses_attention": "core.distributed",
}


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> object:
    if name == "reference":
        return import_module("fame_accel.reference")
    if name not in _LAZY:
        raise AttributeError(f"module 'fame_accel' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"fame_accel.{_LAZY[name]}"), name)
    return value
