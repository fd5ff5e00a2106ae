"""Fused attention modulated by regions, time and fairness, for diffusion video editing.

Public names: `layout_attention`, `TokenLayout`, `SpaceTimeLayout`, `Modulation`, `time_weights`, and, with the
`diffusers` extra, `apply_fame`, `restore_fame`, `FameConfig`, `FameSelfAttnProcessor`, `FameCrossAttnProcessor`,
`FameVideoEditPipeline` and `FameVideoEditXLPipeline`.
"""

from pathlib import Path

_here = Path(__file__).resolve().parent
if not (_here / "bindings").is_dir() and (_here.parent / "bindings").is_dir():
    # A source checkout keeps kernels/ and bindings/ beside this folder; installed, they stand inside it.
    __path__.append(str(_here.parent))

from fame_accel import reference  # noqa: E402
from fame_accel.attention import layout_attention  # noqa: E402
from fame_accel.layout import SpaceTimeLayout, TokenLayout  # noqa: E402
from fame_accel.modulation import Modulation, time_weights  # noqa: E402

__version__ = "0.1.0"

_ADAPTER = ("apply_fame", "restore_fame", "FameConfig", "FameHandle", "FameSelfAttnProcessor", "FameCrossAttnProcessor")
_PIPELINES = ("FameVideoEditPipeline", "FameVideoEditXLPipeline")

__all__ = [
    "Modulation",
    "SpaceTimeLayout",
    "TokenLayout",
    "layout_attention",
    "reference",
    "time_weights",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *_ADAPTER, *_PIPELINES})


def __getattr__(name: str) -> object:
    if name in _ADAPTER:
        from fame_accel import adapter

        return getattr(adapter, name)
    if name in _PIPELINES:
        from fame_accel import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'fame_accel' has no attribute {name!r}")
