"""Tile primitives that the kernels share: rows of tokens, packed key tiles, the split head dimension.

A head dimension is held as one or two power-of-two blocks: `head` [rows, HEAD] and `tail` [rows, TAIL]. Where TAIL
is 0 the tail is a dead copy of the head that the compiler removes.
"""

import triton
import triton.language as tl

TILE_FIELDS = tl.constexpr(7)  # position, length, first pair, ends of: same full, full, same short, all pairs


@triton.jit
def gathered_rows(order, start, length, BLOCK: tl.constexpr):
    """Token indices at positions start.. of the order, int64 as N * row stride may pass 2**31, and which are real."""
    lane = tl.arange(0, BLOCK)
    inside = lane < length
    return tl.load(order + start + lane, mask=inside, other=0).to(tl.int64), inside


@triton.jit
def query_tile(tiles, tiles_stride, num_heads, num_tiles):
    """The (batch, head, query tile) of this program: batch, head, their joint index, the tile's entry in the plan."""
    program = tl.program_id(0)
    batch_head = (program // num_tiles).to(tl.int64)
    batch = batch_head // num_heads
    tile = tiles + batch * tiles_stride + TILE_FIELDS * (program % num_tiles)
    return batch, batch_head % num_heads, batch_head, tile


@triton.jit
def head_of(base, batch, head, stride_b, stride_h, ALIGN: tl.constexpr):
    """Address of one head's rows."""
    return base + tl.multiple_of(batch * stride_b + head * stride_h, ALIGN)


@triton.jit
def load_block(
    base, rows, inside, stride_n, stride_d,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Columns FIRST.. of the rows, [rows, WIDTH]; zero past head_dim D and outside `inside`."""
    dim = FIRST + tl.arange(0, WIDTH)
    pointers = base + tl.multiple_of(rows * stride_n, ALIGN)[:, None] + dim.to(rows.dtype)[None, :] * stride_d
    if FIRST + WIDTH <= D:
        return tl.load(pointers, mask=inside[:, None], other=0.0)
    else:
        return tl.load(pointers, mask=inside[:, None] & (dim < D)[None, :], other=0.0)


@triton.jit
def load_rows(
    base, rows, inside, stride_n, stride_d, HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """Both blocks of the rows."""
    head = load_block(base, rows, inside, stride_n, stride_d, 0, HEAD, D, ALIGN)
    tail = head
    if TAIL > 0:
        tail = load_block(base, rows, inside, stride_n, stride_d, HEAD, TAIL, D, ALIGN)
    return head, tail


@triton.jit
def entry_of(pairs, pair, last):
    """A field of a pair in a table of two fields each; 0 from `last` on.

    Loops read it an iteration ahead, into registers. Read in the iteration that uses it, it would become one of the
    asynchronous copies, the newest of them, and who waits for the newest waits for the tiles that are to come as well.
    """
    return tl.load(pairs + 2 * pair, mask=pair < last, other=0)


@triton.jit
def packed_block(
    base, start, length, SHORT: tl.constexpr, REPEAT: tl.constexpr,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, ROW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Columns FIRST.. of packed rows start.., [BLOCK, WIDTH]; as in `packed_rows`."""
    lane = tl.arange(0, BLOCK)
    row = tl.minimum(lane, length - 1) if SHORT and REPEAT else lane
    pointers = base + (tl.multiple_of(start * ROW, 16) + row[:, None] * ROW + FIRST + tl.arange(0, WIDTH)[None, :])
    if SHORT and not REPEAT:
        return tl.load(pointers, mask=(lane < length)[:, None], other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def packed_rows(
    base, start, length, SHORT: tl.constexpr, REPEAT: tl.constexpr,
    HEAD: tl.constexpr, TAIL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Both blocks of packed rows start..; rows of HEAD + TAIL, see `pack`. Where SHORT, those from `length` on are
    zeros; with REPEAT they are the last one again, which no row extreme notices."""
    head = packed_block(base, start, length, SHORT, REPEAT, 0, HEAD, HEAD + TAIL, BLOCK)
    tail = head
    if TAIL > 0:
        tail = packed_block(base, start, length, SHORT, REPEAT, HEAD, TAIL, HEAD + TAIL, BLOCK)
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
