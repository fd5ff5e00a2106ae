"""From a plan to the operator of its backend; and the two operators above plans: the whole call, and the reference."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from fame_accel import bindings
from fame_accel.core.backend import resolve_backend
from fame_accel.core.layout import TokenLayout
from fame_accel.core.modulation import Modulation
from fame_accel.core.planning import AttentionPlan, find_plan
from fame_accel.core.reference import evaluate
from fame_accel.core.tracing import call_operator
from fame_accel.core.validation import check_factors

reference_attention = bindings.declare(
    "reference_attention",
    "Tensor query, Tensor key, Tensor value, Tensor query_region, Tensor query_frame, Tensor key_region, "
    "Tensor key_frame, Tensor? strength, Tensor? bias, Tensor? row_strength, Tensor? key_weight, float scale",
    evaluate,
    ("CompositeExplicitAutograd",),
)


def run_plan(
    plan: AttentionPlan,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row_strength: Tensor | None,
    key_weight: Tensor | None,
    scale: float,
    with_lse: bool,
    plain_items: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Layout attention by a plan on checked arguments.

    Args:
        plan, query, key, value, scale: as in `layout_attention`.
        row_strength, key_weight: float32 [P, Nq] and [P, Nk], P in (1, B), or None.
        with_lse: whether lse is wanted; without, it may be less exact or undefined.
        plain_items: int64 tensor of one entry on the CPU; batch items before it get plain attention. Layouts and
            factors must then serve all items.

    Returns:
        out like the query, and lse [B, H, Nq] float32 (float64 for float64).
    """

    options = {} if plain_items is None else {"plain_items": plain_items}
    tensors = (query, key, value)
    layouts = (plan.query_region, plan.query_frame, plan.key_region, plan.key_frame)
    tables, factors = (plan.strength, plan.bias), (row_strength, key_weight)
    if plan.tiles is not None:
        tiles = plan.tiles
        one_pass = tiles.strength_pair is not None and key_weight is None
        return call_operator(
            bindings.tile_attention, *tensors, tiles.query_order, tiles.key_order, tiles.tiles, tiles.pair_span,
            tiles.pair_value, *factors, scale, tiles.modulated, one_pass, *(tiles.strength_pair or (0.0, 0.0)),
            tiles.max_bias, tiles.block_q, tiles.block_k, with_lse, **options,
        )  # fmt: skip
    if plan.kernel == "few_keys":
        few_keys = bindings.few_keys_attention
        return call_operator(few_keys, *tensors, *layouts[:3], *tables, *factors, scale, **options)
    if plan.kernel == "short_sequences":
        short_sequences = bindings.short_sequences_attention
        return call_operator(short_sequences, *tensors, *layouts, *tables, *factors, scale, **options)
    if plan.backend == "sdpa":
        runs: tuple[Tensor | None, ...] = (None,) * 6
        if plan.runs is not None:
            orders = (plan.runs.query_order, plan.runs.key_order)
            runs = (*orders, plan.runs.query_runs, plan.runs.key_runs, plan.runs.strength, plan.runs.bias)
        sdpa = bindings.sdpa_attention
        return call_operator(sdpa, *tensors, *layouts, *tables, *runs, *factors, scale, with_lse, **options)
    return call_operator(reference_attention, *tensors, *layouts, *tables, *factors, scale, **options)


def _layout_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_region: Tensor,
    query_frame: Tensor,
    query_frames: int,
    key_region: Tensor,
    key_frame: Tensor,
    key_frames: int,
    strength_table: Tensor | None,
    bias_table: Tensor | None,
    row_strength: Tensor | None,
    key_weight: Tensor | None,
    scale: float,
    backend: str,
    with_lse: bool,
) -> tuple[Tensor, Tensor]:
    """A call whose plan is found when it runs: regions, frames int32 [P, N], tables [2, Fq, Fk] on the CPU."""
    if 0 in (*query.shape, *key.shape):
        return empty_result(query)
    query_layout = layout_of(query_region, query_frame, query_frames)
    key_layout = query_layout
    if key_region is not query_region or key_frame is not query_frame:
        key_layout = layout_of(key_region, key_frame, key_frames)
    factors = check_factors(query, key, _as_given(row_strength), _as_given(key_weight))
    backend = resolve_backend(backend, query.device, query.dtype)
    plan = find_plan(
        query_layout, key_layout, Modulation(strength_table, bias_table), backend, len(query), query.shape[-1],
        query.dtype, key_weight is not None,
    )  # fmt: skip
    return run_plan(plan, query, key, value, *factors, scale, with_lse)


def _as_given(factor: Tensor | None) -> Tensor | None:
    """A factor of all items, [1, N], as callers give it: [N]."""
    return factor[0] if factor is not None and len(factor) == 1 else factor


# Layouts by their `region`: recorded code holds the tensors of a layout, not the layout.
_LAYOUTS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def layout_of(region: Tensor, frame: Tensor, num_frames: int) -> TokenLayout:
    """The layout of tensors that recorded code holds, one for each `region` as long as it lives."""
    content = (id(frame), num_frames, *(0 if x.is_inference() else x._version for x in (region, frame)))
    known, layout = _LAYOUTS.get(region, (None, None))
    if known != content or layout is None:
        layout = TokenLayout(region, frame, num_frames)
        _LAYOUTS[region] = (content, layout)
    return layout


def empty_result(query: Tensor) -> tuple[Tensor, Tensor]:
    """out and lse where there is no row, or no key for any row."""
    out, lse = bindings.empty_outputs(query)
    return out.zero_(), lse.fill_(-math.inf)


# A CUDA graph would replay the plan of the first masks.
PLANS_WHEN_RUN = [torch.Tag.cudagraph_unsafe] if hasattr(torch.Tag, "cudagraph_unsafe") else []
layout_attention_op = bindings.declare(
    "layout_attention",
    "Tensor query, Tensor key, Tensor value, Tensor query_region, Tensor query_frame, SymInt query_frames, "
    "Tensor key_region, Tensor key_frame, SymInt key_frames, Tensor? strength_table, Tensor? bias_table, "
    "Tensor? row_strength, Tensor? key_weight, float scale, str backend, bool with_lse",
    _layout_attention,
    ("CompositeExplicitAutograd",),
    tags=PLANS_WHEN_RUN,
)
