"""Fused attention modulated by regions, time and fairness, for diffusion video editing.

`import fame_accel` needs torch alone. The adapter's and the pipelines' names are imported on first use and need the
`diffusers` extra.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from fame_accel import reference
from fame_accel._version import __version__
from fame_accel.core.attention import layout_attention
from fame_accel.core.layout import SpaceTimeLayout, TokenLayout
from fame_accel.core.modulation import Modulation, time_weights
from fame_accel.core.planning import AttentionPlan, plan_attention

if TYPE_CHECKING:
    from fame_accel.adapter import (
        FameConfig,
        FameCrossAttnProcessor,
        FameHandle,
        FameSelfAttnProcessor,
        apply_fame,
        restore_fame,
    )
    from fame_accel.pipeline import FameVideoEditPipeline, FameVideoEditXLPipeline

__all__ = [
    "AttentionPlan",
    "FameConfig",
    "FameCrossAttnProcessor",
    "FameHandle",
    "FameSelfAttnProcessor",
    "FameVideoEditPipeline",
    "FameVideoEditXLPipeline",
    "Modulation",
    "SpaceTimeLayout",
    "TokenLayout",
    "__version__",
    "apply_fame",
    "layout_attention",
    "plan_attention",
    "reference",
    "restore_fame",
    "time_weights",
]

_LAZY = {
    "FameConfig": "fame_accel.adapter",
    "FameCrossAttnProcessor": "fame_accel.adapter",
    "FameHandle": "fame_accel.adapter",
    "FameSelfAttnProcessor": "fame_accel.adapter",
    "FameVideoEditPipeline": "fame_accel.pipeline",
    "FameVideoEditXLPipeline": "fame_accel.pipeline",
    "apply_fame": "fame_accel.adapter",
    "restore_fame": "fame_accel.adapter",
}


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'fame_accel' has no attribute {name!r}")
