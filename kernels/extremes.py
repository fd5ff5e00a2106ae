"""Row extremes of the logits over the keys that are not excluded: the first of the two passes of `modulated`.

    high_i = max_j <q_i, k_j>,  low_i = min_j <q_i, k_j>        (unscaled)

Shapes as in `attention`; high, low float32 [B, H, Nq] contiguous.
"""

from typing import Any

import triton
import triton.language as tl

from .launch import Call, Launch, split_head_dim, tiled_call
from .softmax import part_maxima, part_minima
from .tiles import entry_of, gathered_rows, head_of, load_rows, logits_tile, packed_rows, query_tile


@triton.jit
def _widen(
    high_parts, low_parts, q_head, q_tail, k, pair_span, first, last,
    SHORT: tl.constexpr, BLOCK_K: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Extremes widened by the key tiles of pairs first..last."""
    next_start, next_length = entry_of(pair_span, first, last), entry_of(pair_span + 1, first, last)
    for pair in range(first, last):
        start, length = next_start, next_length
        next_start = entry_of(pair_span, pair + 1, last)
        if SHORT:
            next_length = entry_of(pair_span + 1, pair + 1, last)
        k_head, k_tail = packed_rows(k, start, length, SHORT, True, HEAD, TAIL, BLOCK_K)
        logits = logits_tile(q_head, q_tail, k_head, k_tail, TAIL, PRECISION)
        high_parts = tl.maximum(high_parts, part_maxima(logits, PARTS))
        low_parts = tl.minimum(low_parts, part_minima(logits, PARTS))
    return high_parts, low_parts


@triton.jit
def extremes_kernel(
    q, k, high, low, query_order, tiles, pair_span,
    num_heads, num_tiles, num_queries, num_keys, order_stride, tiles_stride,
    stride_qb, stride_qh, stride_qn, stride_qd,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr,
    PARTS: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    batch, head, batch_head, tile = query_tile(tiles, tiles_stride, num_heads, num_tiles)
    length = tl.load(tile + 1)
    if length > 0:
        rows, inside = gathered_rows(query_order + batch * order_stride, tl.load(tile), length, BLOCK_Q)
        q = head_of(q, batch, head, stride_qb, stride_qh, ALIGN)
        q_head, q_tail = load_rows(q, rows, inside, stride_qn, stride_qd, HEAD, TAIL, D, ALIGN)
        k += batch_head * num_keys * (HEAD + TAIL)
        high_parts = tl.full([BLOCK_Q, PARTS], -float("inf"), tl.float32)
        low_parts = tl.full([BLOCK_Q, PARTS], float("inf"), tl.float32)
        high_parts, low_parts = _widen(
            high_parts, low_parts, q_head, q_tail, k, pair_span, tl.load(tile + 2), tl.load(tile + 4),
            False, BLOCK_K, HEAD, TAIL, PARTS, PRECISION,
        )  # fmt: skip
        high_parts, low_parts = _widen(
            high_parts, low_parts, q_head, q_tail, k, pair_span, tl.load(tile + 4), tl.load(tile + 6),
            True, BLOCK_K, HEAD, TAIL, PARTS, PRECISION,
        )  # fmt: skip
        # again, rather than held in registers over the loops
        rows, inside = gathered_rows(query_order + batch * order_stride, tl.load(tile), length, BLOCK_Q)
        tl.store(high + batch_head * num_queries + rows, tl.max(high_parts, 1), mask=inside)
        tl.store(low + batch_head * num_queries + rows, tl.min(low_parts, 1), mask=inside)


def extremes_call(
    q: Any, k: Any, high: Any, low: Any, query_order: Any, tiles: Any, pair_span: Any, precision: str, launch: Launch
) -> Call:
    """The launch for these tensors; shapes as in the heading.

    One block is halved: of two products in a row Triton keeps a tile's rows within a warp, of one alone it may spread
    them over warps, whose extremes then meet in shared memory at every tile.
    """
    head, tail = split_head_dim(q.shape[3])
    blocks = (head, tail) if tail or head < 32 else (head // 2, head // 2)
    return tiled_call(
        extremes_kernel, q, k, None, query_order, tiles, precision, launch, blocks,
        high=high, low=low, pair_span=pair_span,
    )  # fmt: skip
