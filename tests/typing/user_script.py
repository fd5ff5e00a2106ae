"""What a user writes, for the type checker that `make lint` runs: every public name has the type that is asserted."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import assert_type

import fame_accel
from fame_accel import (
    AttentionPlan,
    FameConfig,
    FameHandle,
    FameVideoEditPipeline,
    FameVideoEditXLPipeline,
    Modulation,
    SpaceTimeLayout,
    TokenLayout,
    apply_fame,
    layout_attention,
    plan_attention,
    reference,
    restore_fame,
    time_weights,
)

FRAMES = 3


def attend(query: Tensor, key: Tensor, value: Tensor, masks: Tensor, with_lse: bool) -> Tensor:
    """Attention over the pixels of a clip, with and without lse, on both entry points."""
    clip = assert_type(SpaceTimeLayout.from_masks(masks), SpaceTimeLayout)
    layout = assert_type(clip.tokens(8, 8), TokenLayout)
    modulation = assert_type(Modulation.fame(FRAMES, decay=0.4), Modulation)
    assert_type(Modulation.region_mask(FRAMES, leakage=0.1), Modulation)
    assert_type(Modulation.videograin(FRAMES), Modulation)
    assert_type(Modulation.frames(FRAMES, keep="first"), Modulation)
    assert_type(time_weights(FRAMES, 0.4), Tensor)

    out = assert_type(layout_attention(query, key, value, layout), Tensor)
    assert_type(layout_attention(query, key, value, layout, layout, modulation, return_lse=False), Tensor)
    both = layout_attention(query, key, value, layout, modulation=modulation, backend="sdpa", return_lse=True)
    assert_type(both, tuple[Tensor, Tensor])
    either = layout_attention(query, key, value, layout, return_lse=with_lse)
    assert_type(either, Tensor | tuple[Tensor, Tensor])
    plan = assert_type(plan_attention(layout, modulation=modulation, head_dim=64), AttentionPlan)
    assert_type(layout_attention(query, key, value, plan=plan), Tensor)
    assert_type(layout_attention(query, key, value, plan=plan, return_lse=True), tuple[Tensor, Tensor])
    assert_type(reference.layout_attention(query, key, value, layout), Tensor)
    assert_type(reference.layout_attention(query, key, value, layout, return_lse=True), tuple[Tensor, Tensor])
    return out


def edit(unet: torch.nn.Module, clip: SpaceTimeLayout) -> None:
    """The adapter, whose names are imported on first use."""
    config = assert_type(FameConfig(clip, self_modulation=Modulation.fame(FRAMES)), FameConfig)
    with assert_type(apply_fame(unet, config), FameHandle) as handle:
        assert_type(handle, FameHandle)
    restore_fame(unet)
    assert_type(fame_accel.apply_fame(unet, config), FameHandle)
    assert_type(FameVideoEditPipeline, type[FameVideoEditPipeline])
    assert_type(FameVideoEditXLPipeline, type[FameVideoEditXLPipeline])


assert_type(fame_accel.__version__, str)
