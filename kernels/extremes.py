"""Row extremes of the logits over the keys that are not excluded.

    high_i = max_j <q_i, k_j>,  low_i = min_j <q_i, k_j>        (unscaled)

q [B, H, Nq, D], k [B, H, Nk, D] with any strides; the plan's query_order [P, Nq], key_order [P, Nk], tiles [P, T, 5]
and pair_span [L, 2]; high, low float32 [B, H, Nq] contiguous. One program per (batch, head, query tile).
"""

from typing import Any

import triton
import triton.language as tl

from .launch import Call, Launch, item_stride, options, past_int32, row_alignment, split_head_dim, strides
from .tiles import gathered_full_rows, gathered_rows, head_of, load_rows, logits_tile


@triton.jit
def _widen(
    row_high, row_low, q_head, q_tail, k, key_order, pair_span, first, last, stride_kn, stride_kd,
    SHORT: tl.constexpr, BLOCK_K: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr,
    ALIGN: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Extremes widened by the key tiles of pairs first..last."""
    for pair in range(first, last):
        start = tl.load(pair_span + 2 * pair)
        if SHORT:
            rows, inside = gathered_rows(key_order, start, tl.load(pair_span + 2 * pair + 1), BLOCK_K, WIDE)
        else:
            rows = gathered_full_rows(key_order, start, BLOCK_K, WIDE)
            inside = rows
        k_head, k_tail = load_rows(k, rows, inside, stride_kn, stride_kd, SHORT, HEAD, TAIL, D, ALIGN)
        logits = logits_tile(q_head, q_tail, k_head, k_tail, TAIL, PRECISION)
        if SHORT:
            row_high = tl.maximum(row_high, tl.max(tl.where(inside[None, :], logits, -float("inf")), 1))
            row_low = tl.minimum(row_low, tl.min(tl.where(inside[None, :], logits, float("inf")), 1))
        else:
            row_high = tl.maximum(row_high, tl.max(logits, 1))
            row_low = tl.minimum(row_low, tl.min(logits, 1))
    return row_high, row_low


@triton.jit
def extremes_kernel(
    q, k, high, low, query_order, key_order, tiles, pair_span,
    num_heads, num_tiles, num_queries, order_stride_q, order_stride_k, tiles_stride,
    stride_qb, stride_qh, stride_qn, stride_qd, stride_kb, stride_kh, stride_kn, stride_kd,
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
        key_order += batch * order_stride_k
        q_head, q_tail = load_rows(q, rows, inside, stride_qn, stride_qd, True, HEAD, TAIL, D, ALIGN)
        row_high = tl.full([BLOCK_Q], -float("inf"), tl.float32)
        row_low = tl.full([BLOCK_Q], float("inf"), tl.float32)
        row_high, row_low = _widen(
            row_high, row_low, q_head, q_tail, k, key_order, pair_span, first, full, stride_kn, stride_kd,
            False, BLOCK_K, HEAD, TAIL, D, ALIGN, WIDE, PRECISION,
        )  # fmt: skip
        row_high, row_low = _widen(
            row_high, row_low, q_head, q_tail, k, key_order, pair_span, full, last, stride_kn, stride_kd,
            True, BLOCK_K, HEAD, TAIL, D, ALIGN, WIDE, PRECISION,
        )  # fmt: skip
        tl.store(high + batch_head * num_queries + rows, row_high, mask=inside)
        tl.store(low + batch_head * num_queries + rows, row_low, mask=inside)


def extremes_call(
    q: Any, k: Any, high: Any, low: Any, query_order: Any, key_order: Any, tiles: Any, pair_span: Any,
    precision: str, launch: Launch,
) -> Call:  # fmt: skip
    """The launch for these tensors; shapes as in the heading."""
    batch, num_heads, num_queries, head_dim = q.shape
    num_tiles = tiles.shape[1]
    head, tail = split_head_dim(head_dim)
    arguments = dict(
        q=q, k=k, high=high, low=low,
        query_order=query_order, key_order=key_order, tiles=tiles, pair_span=pair_span,
        num_heads=num_heads, num_tiles=num_tiles, num_queries=num_queries,
        order_stride_q=item_stride(query_order), order_stride_k=item_stride(key_order),
        tiles_stride=item_stride(tiles), **strides(q, "q"), **strides(k, "k"),
        BLOCK_Q=launch.block_q, BLOCK_K=launch.block_k, HEAD=head, TAIL=tail, D=head_dim,
        ALIGN=row_alignment(q, k), WIDE=past_int32(q, k), PRECISION=precision,
    )  # fmt: skip
    return Call(
        extremes_kernel,
        (num_tiles * batch * num_heads,),
        arguments,
        options(launch.num_warps, launch.num_stages),
    )
