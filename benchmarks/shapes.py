"""What is measured: suites of cases, the most informative first.

Self-attention of all frames as layers of real models have it, and cross-attention to text. SD 1.5 at 512 x 512 has
64 x 64, 32 x 32, 16 x 16 and 8 x 8 tokens a frame, at 256 x 256 half of these a side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from benchmarks.providers import COMPILED, PROVIDERS
from fame_accel.bench.providers import EAGER, FLOOR
from fame_accel.bench.workload import (
    FAME,
    PLAIN,
    REGION_MASK,
    SELF_ATTENTION,
    AttentionOperation,
    LayerShape,
    operations,
)

OURS = ("ours_triton", "ours_sdpa")
BESIDE_COMPILED = (FLOOR, "ours_triton", *COMPILED)  # on GPUs these come late, as they compile for long


@dataclass(frozen=True)
class SuiteCase:
    """An operation at a shape, measured by several providers side by side."""

    shape: LayerShape
    operation: AttentionOperation
    providers: tuple[str, ...] = tuple(PROVIDERS)


def _sd15(side: int, head_dim: int, frames: int, **options: object) -> LayerShape:
    return LayerShape(f"sd15-{side}x{side}-f{frames}", frames, side, side, 8, head_dim, **options)


def _named(shape: LayerShape, suffix: str, **changes: object) -> LayerShape:
    return replace(shape, name=f"{shape.name}-{suffix}", **changes)


# ---- a GPU: batches of two as under guidance

_LEVELS = ((64, 40), (32, 80), (16, 160), (8, 160))  # (side, head_dim)
_SDXL = LayerShape("sdxl-64x64-f8", 8, 64, 64, 10, 64, batch=2)
_WAN = LayerShape("wan-32x32-f21", 21, 32, 32, 12, 128, batch=2)  # 81 frames at 512 x 512
MAIN = (  # all their comparisons come before those of the others
    _sd15(64, 40, 8, batch=2),
    _sd15(32, 80, 8, batch=2),
    _SDXL,
    _WAN,
    _named(_sd15(64, 40, 8, batch=2), "text77", text=77),
    _named(_WAN, "text512", text=512),
)
OTHERS = (
    *(_sd15(side, head_dim, 8, batch=2) for side, head_dim in _LEVELS[2:]),
    *(_sd15(side, head_dim, 16, batch=2) for side, head_dim in _LEVELS),
    *(_sd15(side, head_dim, 32, batch=2) for side, head_dim in reversed(_LEVELS)),  # the slowest last
    LayerShape("sdxl-32x32-f8", 8, 32, 32, 20, 64, batch=2),
    _named(_sd15(32, 80, 8, batch=2), "text77", text=77),
    _named(_SDXL, "text77", text=77),
    LayerShape("motion-64x64-f16", 16, 64, 64, 8, 40, batch=2, motion=True),
)
SHAPES = (*MAIN, *OTHERS)


def _gpu(shapes: Iterable[LayerShape]) -> list[SuiteCase]:
    """All cases of some shapes; what compiles fast comes before what compiles for long."""
    cases = [(shape, operation) for shape in shapes for operation in operations(shape)]
    early = tuple(name for name in PROVIDERS if name not in COMPILED)
    return [SuiteCase(*case, names) for names in (early, BESIDE_COMPILED) for case in cases]


# ---- a CPU: one item, 256 x 256 pixels

_FINE = _sd15(32, 40, 8)
_PIXELS = LayerShape("motion-32x32-f16", 16, 32, 32, 8, 40, motion=True)
_HALVES = _named(_FINE, "areas60", areas=(0.6, 0.4))  # 52% of the pairs share a region


def _cpu() -> list[SuiteCase]:
    texts = [_named(_sd15(side, 40, 8), f"text{text}", text=text) for side in (32, 64) for text in (77, 226, 512)]
    return [
        *(SuiteCase(_FINE, operation) for operation in SELF_ATTENTION),
        SuiteCase(_HALVES, REGION_MASK),
        *(SuiteCase(_sd15(16, 80, 8), operation) for operation in SELF_ATTENTION),
        *(SuiteCase(shape, operations(shape)[1]) for shape in texts),
        *(SuiteCase(_PIXELS, operation) for operation in (PLAIN, REGION_MASK, FAME)),
    ]


# ---- curves: over frames, resolution, regions and the share of pairs that a hard mask leaves

_SHORT = _sd15(32, 40, 4)
_CURVE = (EAGER, FLOOR, *OURS)


def _scaling() -> list[SuiteCase]:
    """Eager only where a call takes less than minutes; this library beyond."""
    frames = [_sd15(32, 40, number) for number in (2, 4, 8, 16)]
    sides = [_sd15(side, 40, 2) for side in (8, 16, 24, 48, 64)]  # 32 is among the frames
    regions = [_named(_SHORT, f"regions{n}", areas=(1 / n,) * n) for n in (1, 2, 4, 8, 16)]
    shares = [_named(_SHORT, f"areas{a}", areas=(a / 100, 1 - a / 100)) for a in (50, 60, 70, 80, 90, 95)]
    return [
        *(SuiteCase(shape, operation, _CURVE) for shape in frames for operation in (FAME, REGION_MASK)),
        *(SuiteCase(shape, FAME, _CURVE) for shape in sides),
        *(SuiteCase(shape, operation, (FLOOR, *OURS)) for shape in regions for operation in (FAME, REGION_MASK)),
        *(SuiteCase(shape, REGION_MASK, (FLOOR, *OURS, "sdpa_bias", "flex_sorted")) for shape in shares),
        *(SuiteCase(_sd15(32, 40, 32), operation, (EAGER, *OURS)) for operation in (FAME, REGION_MASK)),
        SuiteCase(_sd15(32, 40, 64), FAME, (EAGER, *OURS)),
    ]


TOYS = (
    LayerShape("toy-4x4-f2", 2, 4, 4, 1, 40),
    LayerShape("toy-3x3-f2-text9", 2, 3, 3, 1, 16, text=9),
    LayerShape("toy-2x2-f3-motion", 3, 2, 2, 1, 16, motion=True),
)
SUITES = {"gpu": _gpu(MAIN) + _gpu(OTHERS), "cpu": _cpu(), "scaling": _scaling(), "toy": _gpu(TOYS)}
BY_NAME = {shape.name: shape for shape in (*SHAPES, *TOYS)}
