"""Tile primitives that the kernels share: gathering rows, the split head dimension, the online softmax.

A head dimension is held as one or two power-of-two blocks: `head` [rows, HEAD] and `tail` [rows, TAIL]. Where TAIL
is 0 the tail is a dead copy of the head that the compiler removes.
"""

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def gathered_rows(order, start, length, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Token indices at places start.. of the order, and which are real; int64 where WIDE, as N * row stride may then
    pass 2**31."""
    lane = tl.arange(0, BLOCK)
    inside = lane < length
    return tl.load(order + start + lane, mask=inside, other=0).to(tl.int64 if WIDE else tl.int32), inside


@triton.jit
def gathered_full_rows(order, start, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """As `gathered_rows` for a full tile."""
    return tl.load(order + start + tl.arange(0, BLOCK)).to(tl.int64 if WIDE else tl.int32)


@triton.jit
def head_of(base, batch, head, stride_b, stride_h, ALIGN: tl.constexpr):
    """Address of one head's rows."""
    return base + tl.multiple_of(batch * stride_b + head * stride_h, ALIGN)


@triton.jit
def load_block(
    base, rows, inside, stride_n, stride_d,
    MASKED: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Columns FIRST.. of the rows, [rows, WIDTH]; zero past head_dim D and, where MASKED, outside `inside`."""
    dim = FIRST + tl.arange(0, WIDTH)
    pointers = base + tl.multiple_of(rows * stride_n, ALIGN)[:, None] + dim.to(rows.dtype)[None, :] * stride_d
    if FIRST + WIDTH <= D:
        if MASKED:
            return tl.load(pointers, mask=inside[:, None], other=0.0)
        else:
            return tl.load(pointers)
    else:
        if MASKED:
            return tl.load(pointers, mask=inside[:, None] & (dim < D)[None, :], other=0.0)
        else:
            return tl.load(pointers, mask=(dim < D)[None, :], other=0.0)


@triton.jit
def load_rows(
    base, rows, inside, stride_n, stride_d,
    MASKED: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Both blocks of the rows."""
    head = load_block(base, rows, inside, stride_n, stride_d, MASKED, 0, HEAD, D, ALIGN)
    tail = head
    if TAIL > 0:
        tail = load_block(base, rows, inside, stride_n, stride_d, MASKED, HEAD, TAIL, D, ALIGN)
    return head, tail


@triton.jit
def store_block(
    base, rows, inside, stride_n, stride_d, block,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    dim = FIRST + tl.arange(0, WIDTH)
    pointers = base + tl.multiple_of(rows * stride_n, ALIGN)[:, None] + dim.to(rows.dtype)[None, :] * stride_d
    tl.store(pointers, block.to(base.dtype.element_ty), mask=inside[:, None] & (dim < D)[None, :])


@triton.jit
def store_rows(
    base, rows, inside, stride_n, stride_d, head, tail,
    HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Both blocks of the rows."""
    store_block(base, rows, inside, stride_n, stride_d, head, 0, HEAD, D, ALIGN)
    if TAIL > 0:
        store_block(base, rows, inside, stride_n, stride_d, tail, HEAD, TAIL, D, ALIGN)


@triton.jit
def logits_tile(q_head, q_tail, k_head, k_tail, TAIL: tl.constexpr, PRECISION: tl.constexpr):
    """q @ k^T over both blocks, float32 [query rows, keys]."""
    logits = tl.dot(q_head, tl.trans(k_head), input_precision=PRECISION)
    if TAIL > 0:
        logits = tl.dot(q_tail, tl.trans(k_tail), logits, input_precision=PRECISION)
    return logits


@triton.jit
def add_weighted(acc_head, acc_tail, weights, v_head, v_tail, TAIL: tl.constexpr, PRECISION: tl.constexpr):
    """acc + weights @ v over both blocks."""
    weights = weights.to(v_head.dtype)
    acc_head = tl.dot(weights, v_head, acc_head, input_precision=PRECISION)
    if TAIL > 0:
        acc_tail = tl.dot(weights, v_tail, acc_tail, input_precision=PRECISION)
    return acc_head, acc_tail


@triton.jit
def rescale(acc_head, acc_tail, factor, TAIL: tl.constexpr):
    """Both blocks times a factor per row."""
    acc_head = acc_head * factor[:, None]
    if TAIL > 0:
        acc_tail = acc_tail * factor[:, None]
    return acc_head, acc_tail


@triton.jit
def finish(acc_head, acc_tail, row_max, row_sum, TAIL: tl.constexpr):
    """Normalised blocks and the natural-log lse; 0 and -inf for rows that saw no key."""
    empty = row_sum == 0.0
    inverse = 1.0 / tl.where(empty, 1.0, row_sum)
    acc_head, acc_tail = rescale(acc_head, acc_tail, inverse, TAIL)
    lse = tl.where(empty, -float("inf"), (row_max + tl.log2(tl.where(empty, 1.0, row_sum))) * LN2)
    return acc_head, acc_tail, lse


@triton.jit
def pull_target(strength, high, low):
    """The extreme a signed strength pulls to, times its size: positive (same region) high, negative low."""
    return tl.maximum(strength, 0.0) * high + tl.maximum(-strength, 0.0) * low
