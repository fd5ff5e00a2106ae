"""Fused forward pass of layout attention over the pure tiles of a plan, any modulation.

    s_ij  = scale * <q_i, k_j>
    a_ij  = lambda_i * g_j * |A|                          A signed: positive in the same region, negative elsewhere
    z_ij  = s_ij + a_ij * ((high_i if A > 0 else low_i) - s_ij) + B
    out_i = softmax_j(z_ij) @ v,   lse_i = logsumexp_j(z_ij)

A and B are scalars of a tile pair, so without g the whole modulation is z = alpha_i * <q_i, k_j> + beta_i: per
element one multiply-add and one exp2, as in plain flash attention. Base-2 logarithms inside.

q, out [B, H, Nq, D], k, v [B, H, Nk, D] with any strides; lse, high, low float32 [B, H, Nq] contiguous; row_strength
float32 [P, Nq] and key_weight [P, Nk] (read where HAS_ROW_STRENGTH, HAS_KEY_WEIGHT); plan as in `extremes`, with
pair_value [L, 2] = (A, B in base-2 units). One program per (batch, head, query tile).
"""

import math
from typing import Any

import triton
import triton.language as tl

from .launch import Call, Launch, item_stride, options, past_int32, row_alignment, split_head_dim, strides
from .tiles import (
    add_weighted,
    finish,
    gathered_full_rows,
    gathered_rows,
    head_of,
    load_rows,
    logits_tile,
    pull_target,
    rescale,
    store_rows,
)


@triton.jit
def _attend(
    acc_head, acc_tail, row_max, row_sum, q_head, q_tail, strength_row, high, low,
    k, v, key_weight, key_order, pair_span, pair_value, first, last, base2_scale,
    stride_kn, stride_kd, stride_vn, stride_vd,
    SHORT: tl.constexpr, MODULATED: tl.constexpr, HAS_KEY_WEIGHT: tl.constexpr,
    BLOCK_K: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr,
    ALIGN: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Online softmax continued over the key tiles of pairs first..last."""
    for pair in range(first, last):
        start = tl.load(pair_span + 2 * pair)
        bias = tl.load(pair_value + 2 * pair + 1)
        if SHORT:
            rows, inside = gathered_rows(key_order, start, tl.load(pair_span + 2 * pair + 1), BLOCK_K, WIDE)
        else:
            rows = gathered_full_rows(key_order, start, BLOCK_K, WIDE)
            inside = rows
        k_head, k_tail = load_rows(k, rows, inside, stride_kn, stride_kd, SHORT, HEAD, TAIL, D, ALIGN)
        z = logits_tile(q_head, q_tail, k_head, k_tail, TAIL, PRECISION)
        if MODULATED and HAS_KEY_WEIGHT:
            if SHORT:
                weight = tl.load(key_weight + rows, mask=inside, other=0.0)
            else:
                weight = tl.load(key_weight + rows)
            strength = tl.load(pair_value + 2 * pair)
            target = tl.where(strength > 0.0, high, low)
            z += (strength_row * tl.abs(strength))[:, None] * weight[None, :] * (target[:, None] - z)
            alpha = tl.zeros_like(row_max) + base2_scale
            beta = tl.zeros_like(row_max) + bias
        elif MODULATED:
            strength = tl.load(pair_value + 2 * pair)
            alpha = base2_scale * (1.0 - strength_row * tl.abs(strength))
            beta = base2_scale * strength_row * pull_target(strength, high, low) + bias
        else:
            alpha = tl.zeros_like(row_max) + base2_scale
            beta = tl.zeros_like(row_max) + bias
        if SHORT:
            tile_max = tl.max(tl.where(inside[None, :], z, -float("inf")), 1)
        else:
            tile_max = tl.max(z, 1)
        # alpha >= 0, so the largest z of a row is at its largest logit
        new_max = tl.maximum(row_max, alpha * tile_max + beta)
        weights = tl.exp2(z * alpha[:, None] + (beta - new_max)[:, None])
        if SHORT:
            weights = tl.where(inside[None, :], weights, 0.0)
        factor = tl.exp2(row_max - new_max)
        row_max = new_max
        row_sum = row_sum * factor + tl.sum(weights, 1)
        acc_head, acc_tail = rescale(acc_head, acc_tail, factor, TAIL)
        v_head, v_tail = load_rows(v, rows, inside, stride_vn, stride_vd, SHORT, HEAD, TAIL, D, ALIGN)
        acc_head, acc_tail = add_weighted(acc_head, acc_tail, weights, v_head, v_tail, TAIL, PRECISION)
    return acc_head, acc_tail, row_max, row_sum


@triton.jit
def attention_kernel(
    q, k, v, out, lse, high, low, row_strength, key_weight,
    query_order, key_order, tiles, pair_span, pair_value,
    num_heads, num_tiles, num_queries, base2_scale,
    order_stride_q, order_stride_k, tiles_stride, strength_stride, weight_stride,
    stride_qb, stride_qh, stride_qn, stride_qd, stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd, stride_ob, stride_oh, stride_on, stride_od,
    MODULATED: tl.constexpr, HAS_ROW_STRENGTH: tl.constexpr, HAS_KEY_WEIGHT: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr,
    ALIGN: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    batch_head = (program // num_tiles).to(tl.int64)
    batch, head = batch_head // num_heads, batch_head % num_heads
    tile = tiles + batch * tiles_stride + 5 * (program % num_tiles)
    length = tl.load(tile + 1)
    if length > 0:
        first, full, last = tl.load(tile + 2), tl.load(tile + 3), tl.load(tile + 4)
        rows, inside = gathered_rows(query_order + batch * order_stride_q, tl.load(tile), length, BLOCK_Q, WIDE)
        q = head_of(q, batch, head, stride_qb, stride_qh, ALIGN)
        k = head_of(k, batch, head, stride_kb, stride_kh, ALIGN)
        v = head_of(v, batch, head, stride_vb, stride_vh, ALIGN)
        key_order += batch * order_stride_k
        q_head, q_tail = load_rows(q, rows, inside, stride_qn, stride_qd, True, HEAD, TAIL, D, ALIGN)
        row_max = tl.full([BLOCK_Q], -float("inf"), tl.float32)
        row_sum = tl.zeros([BLOCK_Q], tl.float32)
        acc_head = tl.zeros([BLOCK_Q, HEAD], tl.float32)
        acc_tail = acc_head
        if TAIL > 0:
            acc_tail = tl.zeros([BLOCK_Q, TAIL], tl.float32)
        strength_row = tl.full([BLOCK_Q], 1.0, tl.float32)
        row_high, row_low = row_sum, row_sum
        if MODULATED:
            row_high = tl.load(high + batch_head * num_queries + rows, mask=inside, other=0.0)
            row_low = tl.load(low + batch_head * num_queries + rows, mask=inside, other=0.0)
        if HAS_ROW_STRENGTH:
            strength_row = tl.load(row_strength + batch * strength_stride + rows, mask=inside, other=0.0)
        if HAS_KEY_WEIGHT:
            key_weight += batch * weight_stride
        acc_head, acc_tail, row_max, row_sum = _attend(
            acc_head, acc_tail, row_max, row_sum, q_head, q_tail, strength_row, row_high, row_low,
            k, v, key_weight, key_order, pair_span, pair_value, first, full, base2_scale,
            stride_kn, stride_kd, stride_vn, stride_vd,
            False, MODULATED, HAS_KEY_WEIGHT, BLOCK_K, HEAD, TAIL, D, ALIGN, WIDE, PRECISION,
        )  # fmt: skip
        acc_head, acc_tail, row_max, row_sum = _attend(
            acc_head, acc_tail, row_max, row_sum, q_head, q_tail, strength_row, row_high, row_low,
            k, v, key_weight, key_order, pair_span, pair_value, full, last, base2_scale,
            stride_kn, stride_kd, stride_vn, stride_vd,
            True, MODULATED, HAS_KEY_WEIGHT, BLOCK_K, HEAD, TAIL, D, ALIGN, WIDE, PRECISION,
        )  # fmt: skip
        acc_head, acc_tail, row_lse = finish(acc_head, acc_tail, row_max, row_sum, TAIL)
        out = head_of(out, batch, head, stride_ob, stride_oh, ALIGN)
        store_rows(out, rows, inside, stride_on, stride_od, acc_head, acc_tail, HEAD, TAIL, D, ALIGN)
        tl.store(lse + batch_head * num_queries + rows, row_lse, mask=inside)


def attention_call(
    q: Any, k: Any, v: Any, out: Any, lse: Any, high: Any, low: Any, row_strength: Any, key_weight: Any,
    query_order: Any, key_order: Any, tiles: Any, pair_span: Any, pair_value: Any,
    scale: float, precision: str, launch: Launch,
) -> Call:  # fmt: skip
    """The launch for these tensors; shapes as in the heading. high and low are None for plain tables, row_strength
    and key_weight where they are 1."""
    batch, num_heads, num_queries, head_dim = q.shape
    num_tiles = tiles.shape[1]
    head, tail = split_head_dim(head_dim)
    modulated = high is not None
    arguments = dict(
        q=q, k=k, v=v, out=out, lse=lse, high=high, low=low, row_strength=row_strength, key_weight=key_weight,
        query_order=query_order, key_order=key_order, tiles=tiles, pair_span=pair_span, pair_value=pair_value,
        num_heads=num_heads, num_tiles=num_tiles, num_queries=num_queries, base2_scale=scale * math.log2(math.e),
        order_stride_q=item_stride(query_order), order_stride_k=item_stride(key_order),
        tiles_stride=item_stride(tiles),
        strength_stride=0 if row_strength is None else item_stride(row_strength),
        weight_stride=0 if key_weight is None else item_stride(key_weight),
        **strides(q, "q"), **strides(k, "k"), **strides(v, "v"), **strides(out, "o"),
        MODULATED=modulated, HAS_ROW_STRENGTH=modulated and row_strength is not None,
        HAS_KEY_WEIGHT=modulated and key_weight is not None,
        BLOCK_Q=launch.block_q, BLOCK_K=launch.block_k, HEAD=head, TAIL=tail, D=head_dim,
        ALIGN=row_alignment(q, k, v, out), WIDE=past_int32(q, k, v, out), PRECISION=precision,
    )  # fmt: skip
    return Call(
        attention_kernel,
        (num_tiles * batch * num_heads,),
        arguments,
        options(launch.num_warps, launch.num_stages),
    )
