"""Attention moved toward its row extremes in one pass, where the strength depends on `same` alone: A[same].

    s_ij  = scale * <q_i, k_j>,   a_i = lambda_i * A[same]
    z_ij  = s_ij + a_i * ((max_j s_ij if same else min_j s_ij) - s_ij) + B
    out_i = softmax_j(z_ij) @ v,   lse_i = logsumexp_j(z_ij)

Over the keys of the same region z_ij = (1 - a_i) * s_ij + B, but for a_i * max_j s_ij, which scales the whole group;
likewise over the others with the minimum. So each group is a softmax of its own, whose loop finds its share of the
extremes on the way. One launch does the keys of the same region and leaves its result in `parked`, `group_lse`, `high`
and `low`; the next (LAST) does the others and merges, by then knowing both extremes. (In one launch, one group's
accumulator would have to outlive the other's loop, for which there are no registers.)

Shapes as in `attention`; row_strength (lambda) float32 [P, Nq], read where HAS_ROW_STRENGTH; high, low,
group_lse float32 [B, H, Nq]; parked float32 [B, H, Nq, HEAD + TAIL], contiguous; high and low unscaled.
"""

import math
from typing import Any

import triton
import triton.language as tl

from .key_loop import attend
from .launch import Call, Launch, item_stride, tiled_call
from .softmax import LN2, finish, shares, whole_sum, zero_state
from .tiles import gathered_rows, head_of, load_rows, query_tile, store_rows


@triton.jit
def one_pass_kernel(
    q, k, v, out, lse, high, low, parked, group_lse, row_strength, query_order, tiles, pair_span, pair_value,
    num_heads, num_tiles, num_queries, num_keys, base2_scale, strength_same, strength_other,
    order_stride, tiles_stride, strength_stride,
    stride_qb, stride_qh, stride_qn, stride_qd, stride_ob, stride_oh, stride_on, stride_od,
    LAST: tl.constexpr, HAS_ROW_STRENGTH: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr,
    SUMS: tl.constexpr, PARTS: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    batch, head, batch_head, tile = query_tile(tiles, tiles_stride, num_heads, num_tiles)
    length = tl.load(tile + 1)
    if length > 0:
        query_order += batch * order_stride
        rows, inside = gathered_rows(query_order, tl.load(tile), length, BLOCK_Q)
        q = head_of(q, batch, head, stride_qb, stride_qh, ALIGN)
        q_head, q_tail = load_rows(q, rows, inside, stride_qn, stride_qd, HEAD, TAIL, D, ALIGN)
        k += batch_head * num_keys * (HEAD + TAIL)
        v += batch_head * num_keys * (HEAD + TAIL)
        strength = tl.full([BLOCK_Q], 1.0, tl.float32)
        if HAS_ROW_STRENGTH:
            strength = tl.load(row_strength + batch * strength_stride + rows, mask=inside, other=0.0)
        alpha = base2_scale * (1.0 - strength * (strength_other if LAST else strength_same))
        row_high = tl.full([BLOCK_Q], -float("inf"), tl.float32)
        low_parts = tl.full([BLOCK_Q, PARTS], float("inf"), tl.float32)
        acc_head, acc_tail, row_max, sum_parts = zero_state(BLOCK_Q, HEAD, TAIL, PARTS)
        acc_head, acc_tail, row_max, sum_parts, row_high, low_parts = attend(
            acc_head, acc_tail, row_max, sum_parts, row_high, low_parts,
            q_head, q_tail, alpha, k, v, pair_span, pair_value,
            tl.load(tile + (3 if LAST else 2)), tl.load(tile + (4 if LAST else 3)),
            False, True, BLOCK_K, HEAD, TAIL, SUMS, PARTS, PRECISION,
        )  # fmt: skip
        acc_head, acc_tail, row_max, sum_parts, row_high, low_parts = attend(
            acc_head, acc_tail, row_max, sum_parts, row_high, low_parts,
            q_head, q_tail, alpha, k, v, pair_span, pair_value,
            tl.load(tile + (5 if LAST else 4)), tl.load(tile + (6 if LAST else 5)),
            True, True, BLOCK_K, HEAD, TAIL, SUMS, PARTS, PRECISION,
        )  # fmt: skip
        row_sum = whole_sum(acc_head, acc_tail, sum_parts, SUMS, HEAD, TAIL, D)
        acc_head, acc_tail, row_lse = finish(acc_head, acc_tail, row_max, row_sum, TAIL)
        row_low = tl.min(low_parts, 1)

        # again, rather than held in registers over the loops
        rows, inside = gathered_rows(query_order, tl.load(tile), length, BLOCK_Q)
        index = batch_head * num_queries + rows
        ROW: tl.constexpr = HEAD + TAIL
        if LAST:
            strength = tl.full([BLOCK_Q], 1.0, tl.float32)
            if HAS_ROW_STRENGTH:
                strength = tl.load(row_strength + batch * strength_stride + rows, mask=inside, other=0.0)
            row_high = tl.maximum(row_high, tl.load(high + index, mask=inside, other=0.0))
            row_low = tl.minimum(row_low, tl.load(low + index, mask=inside, other=0.0))
            # a row that saw no key keeps finite extremes; a group that saw none has lse -inf
            amount = base2_scale * LN2 * strength
            other_lse = row_lse + amount * strength_other * tl.where(row_low == float("inf"), 0.0, row_low)
            same_lse = tl.load(group_lse + index, mask=inside, other=0.0)
            same_lse += amount * strength_same * tl.where(row_high == -float("inf"), 0.0, row_high)
            same_share, other_share, row_lse = shares(same_lse, other_lse)
            same_head, same_tail = load_rows(parked, index, inside, ROW, 1, HEAD, TAIL, ROW, 4)
            acc_head = acc_head * other_share[:, None] + same_head * same_share[:, None]
            if TAIL > 0:
                acc_tail = acc_tail * other_share[:, None] + same_tail * same_share[:, None]
            out = head_of(out, batch, head, stride_ob, stride_oh, ALIGN)
            store_rows(out, rows, inside, stride_on, stride_od, acc_head, acc_tail, HEAD, TAIL, D, ALIGN)
            tl.store(lse + index, row_lse, mask=inside)
        else:
            tl.store(high + index, row_high, mask=inside)
            tl.store(low + index, row_low, mask=inside)
            tl.store(group_lse + index, row_lse, mask=inside)
            store_rows(parked, index, inside, ROW, 1, acc_head, acc_tail, HEAD, TAIL, ROW, 4)


def one_pass_call(
    q: Any, k: Any, v: Any, out: Any, lse: Any, high: Any, low: Any, parked: Any, group_lse: Any,
    row_strength: Any,
    query_order: Any, tiles: Any, pair_span: Any, pair_value: Any,
    strength_same: float, strength_other: float, scale: float, precision: str, last: bool, launch: Launch,
    exact_lse: bool = True,
) -> Call:  # fmt: skip
    """One of the two launches for these tensors; shapes as in the heading. row_strength is None where it is 1;
    exact_lse as in `attention`."""
    return tiled_call(
        one_pass_kernel, q, k, out, query_order, tiles, precision, launch,
        SUMS=exact_lse or q.shape[3] == k.shape[3],
        v=v, lse=lse, high=high, low=low, parked=parked, group_lse=group_lse, row_strength=row_strength,
        pair_span=pair_span, pair_value=pair_value, base2_scale=scale * math.log2(math.e),
        strength_same=strength_same, strength_other=strength_other,
        strength_stride=0 if row_strength is None else item_stride(row_strength),
        LAST=last, HAS_ROW_STRENGTH=row_strength is not None,
    )  # fmt: skip
