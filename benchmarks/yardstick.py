"""The yardstick: plain flash attention in the style of our kernels and with their tiles, head dimension padded.

    out_i = softmax_j(scale * <q_i, k_j>) @ v

q, k, v, out [B, H, N, D], any strides; N a multiple of both blocks, so that the loop has no bounds mask. What the
modulated kernels spend beyond it is the price of the modulation.
"""

from __future__ import annotations

import math
from typing import Any

import triton
import triton.language as tl

from fame_accel.kernels.launch import Call, Launch, options, row_alignment, strides


@triton.jit
def yardstick_kernel(
    q, k, v, out, num_heads, num_tiles, num_keys, base2_scale,
    stride_qb, stride_qh, stride_qn, stride_qd, stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd, stride_ob, stride_oh, stride_on, stride_od,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    batch_head = (program // num_tiles).to(tl.int64)
    batch, head = batch_head // num_heads, batch_head % num_heads
    q += tl.multiple_of(batch * stride_qb + head * stride_qh, ALIGN)
    k += tl.multiple_of(batch * stride_kb + head * stride_kh, ALIGN)
    v += tl.multiple_of(batch * stride_vb + head * stride_vh, ALIGN)
    out += tl.multiple_of(batch * stride_ob + head * stride_oh, ALIGN)
    dim = tl.arange(0, WIDTH)
    rows = (program % num_tiles) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    keys = tl.arange(0, BLOCK_K)
    q_tile = tl.load(
        q + tl.multiple_of(rows * stride_qn, ALIGN)[:, None] + dim[None, :] * stride_qd,
        mask=(dim < D)[None, :],
        other=0.0,
    )
    row_max = tl.full([BLOCK_Q], -float("inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, WIDTH], tl.float32)
    k_tile = k + tl.multiple_of(keys * stride_kn, ALIGN)[:, None] + dim[None, :] * stride_kd
    v_tile = v + tl.multiple_of(keys * stride_vn, ALIGN)[:, None] + dim[None, :] * stride_vd
    for _ in range(0, num_keys, BLOCK_K):
        z = tl.dot(q_tile, tl.trans(tl.load(k_tile, mask=(dim < D)[None, :], other=0.0)))
        new_max = tl.maximum(row_max, base2_scale * tl.max(z, 1))
        weights = tl.exp2(z * base2_scale - new_max[:, None])
        factor = tl.exp2(row_max - new_max)
        row_max = new_max
        row_sum = row_sum * factor + tl.sum(weights, 1)
        acc = acc * factor[:, None]
        values = tl.load(v_tile, mask=(dim < D)[None, :], other=0.0)
        acc = tl.dot(weights.to(values.dtype), values, acc)
        k_tile += tl.multiple_of(BLOCK_K * stride_kn, ALIGN)
        v_tile += tl.multiple_of(BLOCK_K * stride_vn, ALIGN)
    acc = acc / row_sum[:, None]
    pointers = out + tl.multiple_of(rows * stride_on, ALIGN)[:, None] + dim[None, :] * stride_od
    tl.store(pointers, acc.to(out.dtype.element_ty), mask=(dim < D)[None, :])


def yardstick_call(q: Any, k: Any, v: Any, out: Any, scale: float, launch: Launch) -> Call:
    """The launch for these tensors; shapes as in the heading."""
    batch, num_heads, num_queries, head_dim = q.shape
    num_tiles = num_queries // launch.block_q
    arguments = dict(
        q=q, k=k, v=v, out=out, num_heads=num_heads, num_tiles=num_tiles, num_keys=k.shape[2],
        base2_scale=scale * math.log2(math.e),
        **strides(q, "q"), **strides(k, "k"), **strides(v, "v"), **strides(out, "o"),
        BLOCK_Q=launch.block_q, BLOCK_K=launch.block_k, WIDTH=triton.next_power_of_2(head_dim), D=head_dim,
        ALIGN=row_alignment(q, k, v, out),
    )  # fmt: skip
    grid = (num_tiles * batch * num_heads,)
    return Call(yardstick_kernel, grid, arguments, options(launch.num_warps, launch.num_stages))
