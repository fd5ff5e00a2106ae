"""The softmax over key tiles: online steps, steps with a fixed pivot, and what a row's statistics end in.

    weights_ij = exp2(alpha_i * <q_i, k_j> + beta_i - pivot_i)

Row statistics that only the end of a loop needs are kept in PARTS partial values a row: where four threads share a
row of a product (NVIDIA up to Hopper), a reduction to 8 parts stays within a thread, and the exchange between threads
happens once. Without SUMS, the sum of the weights is a column of the accumulator (packed rows wider than D, see
`pack`) and is not kept at all: of the weights as rounded for the product, which suits out, and an lse that nobody asked
for.
"""

import triton
import triton.language as tl

from .tiles import rescale

LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def part_sums(tile, PARTS: tl.constexpr):
    """Row sums of [rows, keys] in PARTS parts."""
    return tl.sum(tl.reshape(tile, [tile.shape[0], tile.shape[1] // PARTS, PARTS]), 1)


@triton.jit
def part_maxima(tile, PARTS: tl.constexpr):
    """Row maxima of [rows, keys] in PARTS parts."""
    return tl.max(tl.reshape(tile, [tile.shape[0], tile.shape[1] // PARTS, PARTS]), 1)


@triton.jit
def part_minima(tile, PARTS: tl.constexpr):
    """Row minima of [rows, keys] in PARTS parts."""
    return tl.min(tl.reshape(tile, [tile.shape[0], tile.shape[1] // PARTS, PARTS]), 1)


@triton.jit
def row_maxima(tile, PARTS: tl.constexpr):
    """Row maxima of [rows, keys], by parts first where there are some: short chains rather than one long one."""
    if PARTS > 1:
        tile = part_maxima(tile, PARTS)
    return tl.max(tile, 1)


@triton.jit
def real_part_sums(weights, length, SHORT: tl.constexpr, PARTS: tl.constexpr):
    """Row sums of the weights in PARTS parts; where SHORT, of the first `length` keys."""
    if SHORT:
        real = tl.where(tl.arange(0, weights.shape[1]) < length, 1.0, 0.0)
        weights = weights * real[None, :]
    return part_sums(weights, PARTS)


@triton.jit
def zero_state(ROWS: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, PARTS: tl.constexpr):
    """Accumulator blocks, row maxima and parts of the row sums before the first key."""
    acc_head = tl.zeros([ROWS, HEAD], tl.float32)
    acc_tail = acc_head
    if TAIL > 0:
        acc_tail = tl.zeros([ROWS, TAIL], tl.float32)
    return acc_head, acc_tail, tl.full([ROWS], -float("inf"), tl.float32), tl.zeros([ROWS, PARTS], tl.float32)


@triton.jit
def online_step(
    z, length, alpha, beta, acc_head, acc_tail, row_max, sum_parts,
    SHORT: tl.constexpr, SUMS: tl.constexpr, TAIL: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Weights of a tile of logits z against the running row maxima, its own row maxima of z, and the state rescaled."""
    tile_max = row_maxima(z, PARTS)
    # alpha >= 0, so the largest exponent of a row is at its largest logit
    new_max = tl.maximum(row_max, alpha * tile_max + beta)
    weights = tl.exp2(z * alpha[:, None] + (beta - new_max)[:, None])
    factor = tl.exp2(row_max - new_max)
    if SUMS:
        sum_parts = sum_parts * factor[:, None] + real_part_sums(weights, length, SHORT, PARTS)
    acc_head, acc_tail = rescale(acc_head, acc_tail, factor, TAIL)
    return weights, tile_max, acc_head, acc_tail, new_max, sum_parts


@triton.jit
def pinned_step(exponents, length, sum_parts, SHORT: tl.constexpr, SUMS: tl.constexpr, PARTS: tl.constexpr):
    """Weights of a tile whose exponents are held under a fixed pivot."""
    weights = tl.exp2(exponents)
    if SUMS:
        sum_parts = sum_parts + real_part_sums(weights, length, SHORT, PARTS)
    return weights, sum_parts


@triton.jit
def whole_sum(
    acc_head, acc_tail, sum_parts, SUMS: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr
):
    """Sum of a row's weights, from its parts or from the accumulator."""
    if SUMS:
        return tl.sum(sum_parts, 1)
    elif D >= HEAD:
        return tl.sum(tl.where((HEAD + tl.arange(0, TAIL) == D)[None, :], acc_tail, 0.0), 1)
    else:
        return tl.sum(tl.where((tl.arange(0, HEAD) == D)[None, :], acc_head, 0.0), 1)


@triton.jit
def finish(acc_head, acc_tail, row_max, row_sum, TAIL: tl.constexpr):
    """Normalised blocks and the natural-log lse; 0 and -inf for rows that saw no key, whose largest weight is not 1."""
    empty = row_sum < 1e-30
    inverse = 1.0 / tl.where(empty, 1.0, row_sum)
    acc_head, acc_tail = rescale(acc_head, acc_tail, inverse, TAIL)
    lse = tl.where(empty, -float("inf"), (row_max + tl.log2(tl.where(empty, 1.0, row_sum))) * LN2)
    return acc_head, acc_tail, lse


@triton.jit
def shares(one, other):
    """Shares of two results with these lse in their union, and its lse; 0 and -inf for rows empty in both."""
    top = tl.maximum(one, other)
    pivot = tl.where(top == -float("inf"), 0.0, top)
    one, other = tl.exp(one - pivot), tl.exp(other - pivot)
    total = tl.where(one + other == 0.0, 1.0, one + other)
    return one / total, other / total, top + tl.log(total)
