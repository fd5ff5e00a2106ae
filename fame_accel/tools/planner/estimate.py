"""What an edit's self-attention takes: level by level, for a whole step, and how many frames fit a memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache

import torch

from fame_accel.core.presets import make_modulation
from fame_accel.kernels.launch_table import choose_launch, planned_kernel
from fame_accel.tools.planner import MOST_FRAMES
from fame_accel.tools.planner.cycle_model import CHIPS
from fame_accel.tools.planner.memory import (
    MOST_SDPA_FRAMES,
    CallShape,
    plan_bytes,
    reference_bytes,
    sdpa_bytes,
    triton_bytes,
    triton_refuses,
)
from fame_accel.tools.planner.network import AttentionLevel
from fame_accel.tools.planner.pairs import ModulationKind, RunCounts
from fame_accel.tools.planner.predicted import chips, moved_bytes, predicted_ms
from fame_accel.tools.planner.regions import Regions

_FAMILY = "sm90"  # whose tiles a plan's lists are counted for: next to the tensors they are small on every chip


@dataclass(frozen=True)
class Setting:
    """An edit to plan.

    network: the levels of its UNet.
    size: (height, width) of a frame in pixels.
    guidance: whether an unconditional half, whose attention is plain, runs in the same batch.
    backend: that of the fused calls.
    """

    network: tuple[AttentionLevel, ...]
    regions: Regions
    frames: int = 16
    size: tuple[int, int] = (512, 512)
    dtype: str = "float16"
    modulation: str = "fame"
    guidance: bool = True
    backend: str = "triton"


@dataclass(frozen=True)
class LevelPlan:
    """One of a level's layers at a modulated step, with all items of a guided batch together.

    tokens: N, those of all frames.
    layers: how many layers the level has.
    active: share of the pairs of tokens that the modulation does not exclude.
    flop: of both matrix products over the active pairs, and over all pairs of the plain half.
    moved_bytes: what the fused calls at least move to and from the device's memory.
    eager_bytes, fused_bytes: peaks, query, key and value included.
    milliseconds: predicted for the Triton kernels by chip; None for another backend, and where nothing was counted.
        The plain half runs on torch's own attention, for which the plain kernel stands in.
    """

    height: int
    width: int
    tokens: int
    heads: int
    head_dim: int
    layers: int
    active: float
    flop: int
    moved_bytes: int
    eager_bytes: int
    fused_bytes: int
    milliseconds: dict[str, float | None]


@dataclass(frozen=True)
class Total:
    """A modulated step of the whole UNet: sums over its layers, but peaks of the worst layer."""

    layers: int
    flop: int
    moved_bytes: int
    eager_bytes: int
    fused_bytes: int
    milliseconds: dict[str, float | None]


def plan_levels(setting: Setting) -> list[LevelPlan]:
    """The plan of each level; ValueError where the fused backend refuses that many frames."""
    if refused := refuses(setting):
        raise ValueError(f"--frames {setting.frames}: {refused}")
    return [_plan_level(setting, level) for level in setting.network]


def total(levels: list[LevelPlan]) -> Total:
    """The whole step; a chip's time is None where that of any level is."""
    times = {
        chip: _sum(time for level in levels for time in [level.milliseconds[chip]] * level.layers)
        for chip in levels[0].milliseconds
    }
    return Total(
        layers=sum(level.layers for level in levels),
        flop=sum(level.layers * level.flop for level in levels),
        moved_bytes=sum(level.layers * level.moved_bytes for level in levels),
        eager_bytes=max(level.eager_bytes for level in levels),
        fused_bytes=max(level.fused_bytes for level in levels),
        milliseconds=times,
    )


def peak_bytes(setting: Setting, backend: str) -> int:
    """Peak bytes of the worst layer; backend: reference, triton or sdpa."""
    return max(level_bytes(setting, level, backend) for level in setting.network)


def most_frames(setting: Setting, memory: float, backend: str) -> tuple[int, str | None]:
    """How many frames fit.

    Returns:
        The largest number of frames, of up to MOST_FRAMES, whose peak is at most `memory` bytes, 0 where one is too
        many; and what stops more of them, None where memory does.
    """
    most, stopped = MOST_FRAMES, f"a plan has at most {MOST_FRAMES} frames"
    for level in setting.network:

        def obstacle(frames: int, level: AttentionLevel = level) -> str | None:
            changed = replace(setting, frames=frames, backend=backend)
            return _refusal(changed, level) or ("memory" if level_bytes(changed, level, backend) > memory else None)

        last = last_that_fits(lambda frames: obstacle(frames) is None, most)
        if last < most:
            most, stopped = last, obstacle(last + 1) or stopped
    return most, None if stopped == "memory" else stopped


def refuses(setting: Setting) -> str | None:
    """Why the fused backend cannot take the setting however much memory there is; None where it can."""
    return next((reason for level in setting.network if (reason := _refusal(setting, level))), None)


def _refusal(setting: Setting, level: AttentionLevel) -> str | None:
    if setting.backend == "sdpa" and setting.frames > MOST_SDPA_FRAMES:
        return f"sdpa is planned for at most {MOST_SDPA_FRAMES} frames"
    if setting.backend != "triton":
        return None
    shape, runs = _shape(setting, level), _runs(setting, level)
    return triton_refuses(shape, runs, *_tile(level, shape.dtype.itemsize, runs.kind))


def last_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, 0 where 1 does not; all smaller ones fit too."""
    if most == 0 or (most < MOST_FRAMES and fits(most)):  # so many of another level fit
        return most
    if not fits(1):
        return 0
    low, high = 1, 2
    while high < most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _plan_level(setting: Setting, level: AttentionLevel) -> LevelPlan:
    shape, runs, plain = _shape(setting, level), _runs(setting, level), _plain(setting, level)
    flop_a_pair = 4 * shape.heads * shape.head_dim
    calls = [runs, plain] if setting.guidance else [runs]
    active = runs.active_pairs()
    times: dict[str, list[float | None]] = {chip: [None] for chip in chips()}
    moved = [shape.tensor * 4] * len(calls)  # query, key, value and out, once each
    if setting.backend == "triton":
        times = {chip.name: [predicted_ms(chip, setting.dtype, shape, call) for call in calls] for chip in CHIPS}
        moved[0] = moved_bytes(shape, runs)
    height, width = level.side_lengths(setting.size)
    return LevelPlan(
        height=height,
        width=width,
        tokens=shape.tokens,
        heads=level.heads,
        head_dim=level.head_dim,
        layers=level.layers,
        active=active / shape.tokens**2,
        flop=flop_a_pair * (active + (shape.tokens**2 if setting.guidance else 0)),
        moved_bytes=sum(moved),
        eager_bytes=level_bytes(setting, level, "reference"),
        fused_bytes=level_bytes(setting, level, setting.backend),
        milliseconds={chip: _sum(parts) for chip, parts in times.items()},
    )


def _sum(times: Iterable[float | None]) -> float | None:
    """None where one of them is."""
    known = list(times)
    return None if None in known else sum(time for time in known if time is not None)


def level_bytes(setting: Setting, level: AttentionLevel, backend: str) -> int:
    """Query, key and value of the batch, and a call; with guidance also the joined results of its two halves."""
    shape, runs = _shape(setting, level), _runs(setting, level)
    if backend == "reference":
        call = reference_bytes(shape, runs, setting.frames)
    elif backend == "sdpa":
        call = sdpa_bytes(shape, runs, setting.modulation, setting.frames)
    else:
        call = triton_bytes(shape, runs, *_tile(level, shape.dtype.itemsize, runs.kind))
    if not setting.guidance:
        return 3 * shape.tensor + call
    # the plain half's result stands beside the other half's call; then both results beside the joined one
    return max(7 * shape.tensor + call, 10 * shape.tensor + 3 * shape.row)


def level_plan_bytes(setting: Setting, level: AttentionLevel) -> int:
    """The plan of a level's modulated call: tiles and pairs of tiles, which grow with N and not with N x N."""
    runs = _runs(setting, level)
    return plan_bytes(runs, *_tile(level, getattr(torch, setting.dtype).itemsize, runs.kind))


def _shape(setting: Setting, level: AttentionLevel) -> CallShape:
    height, width = level.side_lengths(setting.size)
    return CallShape(level.heads, setting.frames * height * width, level.head_dim, getattr(torch, setting.dtype))


def _runs(setting: Setting, level: AttentionLevel) -> RunCounts:
    areas = setting.regions.areas(setting.frames, *level.side_lengths(setting.size))
    return RunCounts.of(areas, _kind(setting.modulation, min(setting.frames, 3)))


def _plain(setting: Setting, level: AttentionLevel) -> RunCounts:
    return RunCounts.of(setting.regions.areas(setting.frames, *level.side_lengths(setting.size)), ModulationKind())


def _tile(level: AttentionLevel, element: int, kind: ModulationKind) -> tuple[int, int]:
    kernel = planned_kernel(kind.modulated, kind.one_pass)
    launch = choose_launch(kernel, _FAMILY, level.head_dim, element)
    assert launch is not None, kernel  # every kernel over a plan has an entry
    return launch.block_q, launch.block_k


@cache
def _kind(modulation: str, frames: int) -> ModulationKind:
    return ModulationKind.of(make_modulation(modulation, frames), frames)
