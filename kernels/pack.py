"""Keys and values copied into the plan's order, so that a key tile is one contiguous block.

    packed_k[b, h, p, :D] = k[b, h, order[p], :],   packed_v likewise;   zero past D, but
    packed_v[b, h, p, D] = 1 where the packed rows are wider than D: the product with the weights then sums them

k, v [B, H, Nk, D] with any strides; packed_k, packed_v [B, H, Nk, HEAD + TAIL] contiguous; key_order [P, Nk]. One
program per (batch, head, block of rows), heads of the same rows side by side. Costs one pass over k and v, 1 / Nq of
what the attention over them reads.
"""

from typing import Any

import triton
import triton.language as tl

from .launch import Call, item_stride, options, row_alignment, split_head_dim, strides
from .tiles import gathered_rows, head_of, load_block

_ROWS = 64


@triton.jit
def _copy(
    source, target, rows, position, inside, stride_n, stride_d,
    ONES: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr, ROW: tl.constexpr, D: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """Columns FIRST.. of the rows."""
    block = load_block(source, rows, inside, stride_n, stride_d, FIRST, WIDTH, D, ALIGN)
    dim = FIRST + tl.arange(0, WIDTH)
    if ONES:
        block = tl.where(dim[None, :] == D, 1.0, block).to(block.dtype)
    tl.store(target + position[:, None] * ROW + dim[None, :], block, mask=inside[:, None])


@triton.jit
def pack_kernel(
    k, v, packed_k, packed_v, key_order, num_heads, num_keys, heads_total, order_stride,
    stride_kb, stride_kh, stride_kn, stride_kd, stride_vb, stride_vh, stride_vn, stride_vd,
    ROWS: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    batch_head = (program % heads_total).to(tl.int64)
    batch, head = batch_head // num_heads, batch_head % num_heads
    start = program // heads_total * ROWS
    rows, inside = gathered_rows(key_order + batch * order_stride, start, num_keys - start, ROWS)
    position = batch_head * num_keys + start + tl.arange(0, ROWS)
    k = head_of(k, batch, head, stride_kb, stride_kh, ALIGN)
    v = head_of(v, batch, head, stride_vb, stride_vh, ALIGN)
    ROW: tl.constexpr = HEAD + TAIL
    _copy(k, packed_k, rows, position, inside, stride_kn, stride_kd, False, 0, HEAD, ROW, D, ALIGN)
    _copy(v, packed_v, rows, position, inside, stride_vn, stride_vd, D < ROW, 0, HEAD, ROW, D, ALIGN)
    if TAIL > 0:
        _copy(k, packed_k, rows, position, inside, stride_kn, stride_kd, False, HEAD, TAIL, ROW, D, ALIGN)
        _copy(v, packed_v, rows, position, inside, stride_vn, stride_vd, D < ROW, HEAD, TAIL, ROW, D, ALIGN)


def pack_call(k: Any, v: Any, packed_k: Any, packed_v: Any, key_order: Any) -> Call:
    """The launch for these tensors; shapes as in the heading."""
    batch, num_heads, num_keys, head_dim = k.shape
    head, tail = split_head_dim(head_dim)
    arguments = dict(
        k=k, v=v, packed_k=packed_k, packed_v=packed_v, key_order=key_order,
        num_heads=num_heads, num_keys=num_keys, heads_total=batch * num_heads, order_stride=item_stride(key_order),
        **strides(k, "k"), **strides(v, "v"),
        ROWS=_ROWS, HEAD=head, TAIL=tail, D=head_dim, ALIGN=row_alignment(k, v),
    )  # fmt: skip
    return Call(pack_kernel, (triton.cdiv(num_keys, _ROWS) * batch * num_heads,), arguments, options(4, 1))
