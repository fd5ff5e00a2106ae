"""The loop over key tiles that the online kernels share.

    z_ij = alpha_i * <q_i, k_j> + B

alpha of a row is constant over the loop, B a scalar of a tile pair: per element one multiply-add and one exp2, as in
plain flash attention, and one minimum more where the row extremes of <q_i, k_j> are wanted (EXTREMES). The loop over
full tiles (not SHORT) has no bounds mask; in short ones the last key stands in for those that are not there, with
values of zero.
"""

import triton
import triton.language as tl

from .softmax import online_step, part_minima
from .tiles import add_weighted, entry_of, logits_tile, packed_rows


@triton.jit
def attend(
    acc_head, acc_tail, row_max, sum_parts, high, low_parts,
    q_head, q_tail, alpha, k, v, pair_span, pair_value, first, last,
    SHORT: tl.constexpr, EXTREMES: tl.constexpr, BLOCK_K: tl.constexpr,
    HEAD: tl.constexpr, TAIL: tl.constexpr, SUMS: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The softmax state, and the extremes, continued over the key tiles of pairs first..last."""
    next_start, next_bias = entry_of(pair_span, first, last), entry_of(pair_value + 1, first, last)
    next_length = entry_of(pair_span + 1, first, last)
    for pair in range(first, last):
        start, length, bias = next_start, next_length, next_bias
        next_start, next_bias = entry_of(pair_span, pair + 1, last), entry_of(pair_value + 1, pair + 1, last)
        if SHORT:
            next_length = entry_of(pair_span + 1, pair + 1, last)
        k_head, k_tail = packed_rows(k, start, length, SHORT, True, HEAD, TAIL, BLOCK_K)
        z = logits_tile(q_head, q_tail, k_head, k_tail, TAIL, PRECISION)
        if EXTREMES:
            low_parts = tl.minimum(low_parts, part_minima(z, PARTS))
        weights, tile_max, acc_head, acc_tail, row_max, sum_parts = online_step(
            z, length, alpha, tl.zeros_like(alpha) + bias, acc_head, acc_tail, row_max, sum_parts,
            SHORT, SUMS, TAIL, PARTS,
        )  # fmt: skip
        if EXTREMES:
            high = tl.maximum(high, tile_max)
        v_head, v_tail = packed_rows(v, start, length, SHORT, False, HEAD, TAIL, BLOCK_K)
        acc_head, acc_tail = add_weighted(acc_head, acc_tail, weights, v_head, v_tail, TAIL, PRECISION)
    return acc_head, acc_tail, row_max, sum_parts, high, low_parts
