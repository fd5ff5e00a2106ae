"""Attention moved toward its row extremes, any tables: the second pass, after `extremes`.

    s_ij  = scale * <q_i, k_j>
    a_ij  = lambda_i * g_j * A
    z_ij  = s_ij + a_ij * ((high_i if same_ij else low_i) - s_ij) + B
    out_i = softmax_j(z_ij) @ v,   lse_i = logsumexp_j(z_ij)

A and B are scalars of a tile pair, and tiles of the same region have a loop of their own, so without g the whole
modulation is z = alpha_i * <q_i, k_j> + beta_i. With a in [0, 1] no z passes high_i + max B: the exponentials take
their pivot from it, and the loop keeps no running maximum and rescales nothing (PINNED). A tile with a row so far
below its pivot that its weights lose precision (their sum falls under `least_sum`) is marked in `again`, and a
second launch without PINNED does the marked tiles with running maxima.

Shapes as in `attention`; high, low float32 [B, H, Nq] contiguous, unscaled; row_strength (lambda) float32 [P, Nq] and
key_weight (g) float32 [P, Nk] in the order of the packed keys, read where HAS_ROW_STRENGTH, HAS_KEY_WEIGHT; again
int32, one a program.
"""

import math
from typing import Any

import triton
import triton.language as tl

from .launch import Call, Launch, item_stride, tiled_call
from .softmax import finish, online_step, pinned_step, whole_sum, zero_state
from .tiles import (
    add_weighted,
    entry_of,
    gathered_rows,
    head_of,
    load_rows,
    logits_tile,
    packed_rows,
    query_tile,
    store_rows,
)


@triton.jit
def _attend(
    acc_head, acc_tail, row_max, sum_parts, q_head, q_tail, strength_row, extreme,
    k, v, key_weight, pair_span, pair_value, first, last, base2_scale,
    PINNED: tl.constexpr, SHORT: tl.constexpr, HAS_KEY_WEIGHT: tl.constexpr,
    BLOCK_K: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, SUMS: tl.constexpr, PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The softmax state continued over the key tiles of pairs first..last, all of the same region or of others.

    Logits move toward `extreme`; where PINNED, row_max is the pivot.

    Row factors are spread over whole tiles, and meet one at a time what comes from the product: a thread still holds
    one value a row, but in the product's layout, so that the loop passes none of them between threads.
    """
    TILE: tl.constexpr = [strength_row.shape[0], BLOCK_K]
    strength_rows = tl.broadcast_to(strength_row[:, None], TILE)
    extremes = tl.broadcast_to(extreme[:, None], TILE)
    pivots = tl.broadcast_to(row_max[:, None], TILE)
    next_start, next_length = entry_of(pair_span, first, last), entry_of(pair_span + 1, first, last)
    next_strength, next_bias = entry_of(pair_value, first, last), entry_of(pair_value + 1, first, last)
    for pair in range(first, last):
        start, length, strength, bias = next_start, next_length, next_strength, next_bias
        next_start, next_strength = entry_of(pair_span, pair + 1, last), entry_of(pair_value, pair + 1, last)
        next_bias = entry_of(pair_value + 1, pair + 1, last)
        if SHORT:
            next_length = entry_of(pair_span + 1, pair + 1, last)
        k_head, k_tail = packed_rows(k, start, length, SHORT, True, HEAD, TAIL, BLOCK_K)
        z = logits_tile(q_head, q_tail, k_head, k_tail, TAIL, PRECISION)
        if HAS_KEY_WEIGHT:
            lane = tl.arange(0, BLOCK_K)
            weight = tl.load(key_weight + start + (tl.minimum(lane, length - 1) if SHORT else lane))
            amount = strength * strength_rows
            z = z - weight[None, :] * (amount * z - amount * extremes)
            strength = 0.0
        if PINNED:
            amount = base2_scale * strength * strength_rows
            exponents = z * (base2_scale - amount) + (amount * extremes - pivots + bias)
            weights, sum_parts = pinned_step(exponents, length, sum_parts, SHORT, SUMS, PARTS)
        else:
            amount = base2_scale * strength * strength_row
            weights, tile_max, acc_head, acc_tail, row_max, sum_parts = online_step(
                z, length, base2_scale - amount, amount * extreme + bias, acc_head, acc_tail, row_max, sum_parts,
                SHORT, SUMS, TAIL, PARTS,
            )  # fmt: skip
        v_head, v_tail = packed_rows(v, start, length, SHORT, False, HEAD, TAIL, BLOCK_K)
        acc_head, acc_tail = add_weighted(acc_head, acc_tail, weights, v_head, v_tail, TAIL, PRECISION)
    return acc_head, acc_tail, row_max, sum_parts


@triton.jit
def modulated_kernel(
    q, k, v, out, lse, high, low, row_strength, key_weight, again, query_order, tiles, pair_span, pair_value,
    num_heads, num_tiles, num_queries, num_keys, base2_scale, max_bias, least_sum,
    order_stride, tiles_stride, strength_stride, weight_stride,
    stride_qb, stride_qh, stride_qn, stride_qd, stride_ob, stride_oh, stride_on, stride_od,
    PINNED: tl.constexpr, HAS_ROW_STRENGTH: tl.constexpr, HAS_KEY_WEIGHT: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr,
    SUMS: tl.constexpr, PARTS: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    batch, head, batch_head, tile = query_tile(tiles, tiles_stride, num_heads, num_tiles)
    length = tl.load(tile + 1)
    again += tl.program_id(0)
    wanted = length > 0
    if not PINNED:
        wanted = wanted & (tl.load(again) > 0)
    if wanted:
        rows, inside = gathered_rows(query_order + batch * order_stride, tl.load(tile), length, BLOCK_Q)
        q = head_of(q, batch, head, stride_qb, stride_qh, ALIGN)
        q_head, q_tail = load_rows(q, rows, inside, stride_qn, stride_qd, HEAD, TAIL, D, ALIGN)
        k += batch_head * num_keys * (HEAD + TAIL)
        v += batch_head * num_keys * (HEAD + TAIL)
        row_high = tl.load(high + batch_head * num_queries + rows, mask=inside, other=0.0)
        row_low = tl.load(low + batch_head * num_queries + rows, mask=inside, other=0.0)
        strength_row = tl.full([BLOCK_Q], 1.0, tl.float32)
        if HAS_ROW_STRENGTH:
            strength_row = tl.load(row_strength + batch * strength_stride + rows, mask=inside, other=0.0)
        if HAS_KEY_WEIGHT:
            key_weight += batch * weight_stride
        acc_head, acc_tail, row_max, sum_parts = zero_state(BLOCK_Q, HEAD, TAIL, PARTS)
        if PINNED:
            row_max = base2_scale * row_high + max_bias
        # full tiles in the same region and in others, then short ones
        for part in tl.static_range(4):
            acc_head, acc_tail, row_max, sum_parts = _attend(
                acc_head, acc_tail, row_max, sum_parts, q_head, q_tail, strength_row,
                row_high if part % 2 == 0 else row_low,
                k, v, key_weight, pair_span, pair_value, tl.load(tile + 2 + part), tl.load(tile + 3 + part),
                base2_scale, PINNED, part >= 2, HAS_KEY_WEIGHT, BLOCK_K, HEAD, TAIL, SUMS, PARTS, PRECISION,
            )  # fmt: skip
        row_sum = whole_sum(acc_head, acc_tail, sum_parts, SUMS, HEAD, TAIL, D)
        if PINNED:
            # of a column, and to one element: Triton 3.6 cannot reduce rows of sm_100's tensor memory to a scalar
            least = tl.min(tl.where(inside, row_sum, least_sum)[:, None], 0)
            tl.store(again + tl.arange(0, 1), (least < least_sum).to(tl.int32))
        acc_head, acc_tail, row_lse = finish(acc_head, acc_tail, row_max, row_sum, TAIL)
        # again, rather than held in registers over the loops
        rows, inside = gathered_rows(query_order + batch * order_stride, tl.load(tile), length, BLOCK_Q)
        out = head_of(out, batch, head, stride_ob, stride_oh, ALIGN)
        store_rows(out, rows, inside, stride_on, stride_od, acc_head, acc_tail, HEAD, TAIL, D, ALIGN)
        tl.store(lse + batch_head * num_queries + rows, row_lse, mask=inside)


def modulated_call(
    q: Any, k: Any, v: Any, out: Any, lse: Any, high: Any, low: Any, row_strength: Any, key_weight: Any, again: Any,
    query_order: Any, tiles: Any, pair_span: Any, pair_value: Any,
    max_bias: float, scale: float, precision: str, pinned: bool, launch: Launch,
    exact_lse: bool = True,
) -> Call:  # fmt: skip
    """One of the two launches for these tensors; shapes as in the heading. row_strength and key_weight are None where
    they are 1; max_bias: the largest B, in base-2 units; exact_lse as in `attention`."""
    headroom, least_sum = _room(v)
    return tiled_call(
        modulated_kernel, q, k, out, query_order, tiles, precision, launch,
        SUMS=exact_lse or q.shape[3] == k.shape[3],
        v=v, lse=lse, high=high, low=low, row_strength=row_strength, key_weight=key_weight, again=again,
        pair_span=pair_span, pair_value=pair_value, base2_scale=scale * math.log2(math.e),
        max_bias=max_bias - headroom, least_sum=least_sum,
        strength_stride=0 if row_strength is None else item_stride(row_strength),
        weight_stride=0 if key_weight is None else item_stride(key_weight),
        PINNED=pinned, HAS_ROW_STRENGTH=row_strength is not None, HAS_KEY_WEIGHT=key_weight is not None,
    )  # fmt: skip


def _room(v: Any) -> tuple[float, float]:
    """How many powers of two the largest weight may lie above 1, and the least sum of a row's weights.

    float16 weights are subnormal, hence coarse, below 2**-14, and those of a modulated row lie below its pivot. They
    are scaled up by 2**8, of the 2**16 there are, and their sum must then be so large that rounding is as in a plain
    softmax. The other dtypes have wider exponents and only need to be clear of underflow.
    """
    return (8.0, 128.0) if str(v.dtype) == "torch.float16" else (0.0, 2.0**-64)
