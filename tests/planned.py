"""What the planner's tests compare it with: real calls of one layer, here or in a process of their own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from fame_accel import TokenLayout, layout_attention
from fame_accel.core.presets import make_modulation
from fame_accel.tools.planner.estimate import Setting
from fame_accel.tools.planner.network import AttentionLevel
from fame_accel.tools.planner.regions import EqualRegions


def one_level(
    heads: int, head_dim: int, frames: int, tokens: tuple[int, int], regions: int, **changes: object
) -> Setting:
    """A network of one layer over frames of tokens (height, width) in regions of equal area."""
    size = (8 * tokens[0], 8 * tokens[1])
    given = dict(dtype="float32", guidance=False, backend="sdpa") | changes
    return Setting((AttentionLevel(1, heads, head_dim, 1),), EqualRegions(regions), frames, size, **given)


def tokens_of(setting: Setting) -> TokenLayout:
    """The layout that a setting of one_level assumes."""
    height, width = setting.network[0].side_lengths(setting.size)
    region = torch.arange(height * width) * setting.regions.number // (height * width)
    frame = torch.arange(setting.frames).repeat_interleave(height * width)
    return TokenLayout((1 << region).repeat(setting.frames), frame, setting.frames)


def attend(setting: Setting, backend: str, layout: TokenLayout) -> Callable[[], object]:
    """A function that makes query, key and value and attends to them, as the setting says."""
    level = setting.network[0]
    dtype = getattr(torch, setting.dtype)
    modulation = make_modulation(setting.modulation, setting.frames)
    strength = None if modulation.strength_table is None else layout.size_regularization()

    def call() -> object:
        query, key, value = (
            torch.empty(1, level.heads, layout.num_tokens, level.head_dim, dtype=dtype).normal_() for _ in range(3)
        )
        return layout_attention(
            query, key, value, layout, modulation=modulation, row_strength=strength, backend=backend
        )

    return call


def allocated(call: Callable[[], object]) -> int:
    """Most bytes that torch's CPU allocator holds at once during a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
