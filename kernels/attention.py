"""Attention over the pure tiles of a plan whose pairs are computed, biased or excluded, without extremes.

    z_ij  = scale * <q_i, k_j> + B
    out_i = softmax_j(z_ij) @ v,   lse_i = logsumexp_j(z_ij)

Base-2 logarithms inside. q, out [B, H, Nq, D] with any strides; k, v [B, H, Nk, HEAD + TAIL] as `pack` writes them;
lse float32 [B, H, Nq] contiguous. Of the plan: query_order [P, Nq], tiles [P, T, 7] (position, length, first pair, and
where its pairs end: full in the same region, full, short in the same region, all), pair_span [L, 2] (position, length)
of the key tile, pair_value [L, 2] (A, B in base-2 units). One program per (batch, head, query tile).
"""

import math
from typing import Any

import triton
import triton.language as tl

from .key_loop import attend
from .launch import Call, Launch, tiled_call
from .softmax import finish, whole_sum, zero_state
from .tiles import gathered_rows, head_of, load_rows, query_tile, store_rows


@triton.jit
def attention_kernel(
    q, k, v, out, lse, query_order, tiles, pair_span, pair_value,
    num_heads, num_tiles, num_queries, num_keys, base2_scale, order_stride, tiles_stride,
    stride_qb, stride_qh, stride_qn, stride_qd, stride_ob, stride_oh, stride_on, stride_od,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr,
    SUMS: tl.constexpr, PARTS: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    batch, head, batch_head, tile = query_tile(tiles, tiles_stride, num_heads, num_tiles)
    length = tl.load(tile + 1)
    if length > 0:
        rows, inside = gathered_rows(query_order + batch * order_stride, tl.load(tile), length, BLOCK_Q)
        q = head_of(q, batch, head, stride_qb, stride_qh, ALIGN)
        q_head, q_tail = load_rows(q, rows, inside, stride_qn, stride_qd, HEAD, TAIL, D, ALIGN)
        k += batch_head * num_keys * (HEAD + TAIL)
        v += batch_head * num_keys * (HEAD + TAIL)
        alpha = tl.full([BLOCK_Q], 0.0, tl.float32) + base2_scale
        acc_head, acc_tail, row_max, sum_parts = zero_state(BLOCK_Q, HEAD, TAIL, PARTS)
        acc_head, acc_tail, row_max, sum_parts, _, _ = attend(
            acc_head, acc_tail, row_max, sum_parts, row_max, sum_parts,
            q_head, q_tail, alpha, k, v, pair_span, pair_value, tl.load(tile + 2), tl.load(tile + 4),
            False, False, BLOCK_K, HEAD, TAIL, SUMS, PARTS, PRECISION,
        )  # fmt: skip
        acc_head, acc_tail, row_max, sum_parts, _, _ = attend(
            acc_head, acc_tail, row_max, sum_parts, row_max, sum_parts,
            q_head, q_tail, alpha, k, v, pair_span, pair_value, tl.load(tile + 4), tl.load(tile + 6),
            True, False, BLOCK_K, HEAD, TAIL, SUMS, PARTS, PRECISION,
        )  # fmt: skip
        row_sum = whole_sum(acc_head, acc_tail, sum_parts, SUMS, HEAD, TAIL, D)
        acc_head, acc_tail, row_lse = finish(acc_head, acc_tail, row_max, row_sum, TAIL)
        # again, rather than held in registers over the loops
        rows, inside = gathered_rows(query_order + batch * order_stride, tl.load(tile), length, BLOCK_Q)
        out = head_of(out, batch, head, stride_ob, stride_oh, ALIGN)
        store_rows(out, rows, inside, stride_on, stride_od, acc_head, acc_tail, HEAD, TAIL, D, ALIGN)
        tl.store(lse + batch_head * num_queries + rows, row_lse, mask=inside)


def attention_call(
    q: Any, k: Any, v: Any, out: Any, lse: Any, query_order: Any, tiles: Any, pair_span: Any, pair_value: Any,
    scale: float, precision: str, launch: Launch,
    exact_lse: bool = True,
) -> Call:  # fmt: skip
    """The launch for these tensors; shapes as in the heading.

    With exact_lse, lse is as exact as float32 sums make it; otherwise only as v's dtype is, where that is cheaper.
    """
    return tiled_call(
        attention_kernel, q, k, out, query_order, tiles, precision, launch,
        SUMS=exact_lse or q.shape[3] == k.shape[3],
        v=v, lse=lse, pair_span=pair_span, pair_value=pair_value, base2_scale=scale * math.log2(math.e),
    )  # fmt: skip
