"""Fused attention over a few hundred keys of one frame (long prompts), in tiles, without a plan.

As `few_keys`, whose formula and shapes these are. Each query tile passes over the key tiles twice, extremes first,
or once where there is no strength. q is read once, out written once; the keys come from the L2 cache.
"""

import math
from typing import Any

import triton
import triton.language as tl

from .launch import Call, Launch, item_stride, options, row_alignment, split_head_dim, strides
from .pairs import exponents, load_keys, real_sum, table_rows, toward_extremes, widen
from .softmax import LOG2E, finish
from .tiles import add_weighted, head_of, load_rows, logits_tile, rescale, store_rows


@triton.jit
def streamed_keys_kernel(
    q, k, v, out, lse, query_region, query_frame, key_region, strength, bias, row_strength, key_weight,
    num_heads, num_queries, num_keys, num_frames, num_tiles, base2_scale,
    region_stride_q, region_stride_k, strength_stride, weight_stride,
    stride_qb, stride_qh, stride_qn, stride_qd, stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd, stride_ob, stride_oh, stride_on, stride_od,
    MODULATED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_ROW_STRENGTH: tl.constexpr, HAS_KEY_WEIGHT: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    batch_head = (program // num_tiles).to(tl.int64)
    batch, head = batch_head // num_heads, batch_head % num_heads
    q = head_of(q, batch, head, stride_qb, stride_qh, ALIGN)
    k = head_of(k, batch, head, stride_kb, stride_kh, ALIGN)
    v = head_of(v, batch, head, stride_vb, stride_vh, ALIGN)
    out = head_of(out, batch, head, stride_ob, stride_oh, ALIGN)
    query_region += batch * region_stride_q
    query_frame += batch * region_stride_q
    key_region += batch * region_stride_k
    if HAS_ROW_STRENGTH:
        row_strength += batch * strength_stride
    if HAS_KEY_WEIGHT:
        key_weight += batch * weight_stride
    rows = ((program % num_tiles) * BLOCK_Q + tl.arange(0, BLOCK_Q)).to(tl.int64)
    inside = rows < num_queries
    q_head, q_tail = load_rows(q, rows, inside, stride_qn, stride_qd, HEAD, TAIL, D, ALIGN)
    bits_q = tl.load(query_region + rows, mask=inside, other=0)
    frame = tl.load(query_frame + rows, mask=inside, other=0)
    factor = tl.full([BLOCK_Q], 1.0, tl.float32)
    bias_same, bias_other = table_rows(bias, frame, num_frames, factor * LOG2E, HAS_BIAS)
    if HAS_ROW_STRENGTH:
        factor = tl.load(row_strength + rows, mask=inside, other=0.0)
    strength_same, strength_other = table_rows(strength, frame, num_frames, factor, MODULATED)

    high = tl.full([BLOCK_Q], -float("inf"), tl.float32)
    low = tl.full([BLOCK_Q], float("inf"), tl.float32)
    if MODULATED:
        for start in range(0, num_keys, BLOCK_K):
            bits, weight, k_head, k_tail = load_keys(
                k, key_region, key_weight, start + tl.arange(0, BLOCK_K), num_keys, stride_kn, stride_kd,
                False, HEAD, TAIL, D, ALIGN,
            )  # fmt: skip
            s = logits_tile(q_head, q_tail, k_head, k_tail, TAIL, PRECISION)
            same = (bits_q[:, None] & bits[None, :]) != 0
            high, low = widen(s, same, bias_same, bias_other, high, low, HAS_BIAS)

    row_max = tl.full([BLOCK_Q], -float("inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_Q], tl.float32)
    acc_head = tl.zeros([BLOCK_Q, HEAD], tl.float32)
    acc_tail = acc_head
    if TAIL > 0:
        acc_tail = tl.zeros([BLOCK_Q, TAIL], tl.float32)
    for start in range(0, num_keys, BLOCK_K):
        keys = start + tl.arange(0, BLOCK_K)
        bits, weight, k_head, k_tail = load_keys(
            k, key_region, key_weight, keys, num_keys, stride_kn, stride_kd, HAS_KEY_WEIGHT, HEAD, TAIL, D, ALIGN
        )
        s = logits_tile(q_head, q_tail, k_head, k_tail, TAIL, PRECISION)
        same = (bits_q[:, None] & bits[None, :]) != 0
        if MODULATED:
            s = toward_extremes(s, same, high, low, strength_same, strength_other, weight, HAS_KEY_WEIGHT)
        z, tile_max = exponents(s, same, bias_same, bias_other, base2_scale, HAS_BIAS)
        new_max = tl.maximum(row_max, tile_max)
        pivot = tl.where(new_max == -float("inf"), 0.0, new_max)
        weights = tl.exp2(z - pivot[:, None])
        shrink = tl.exp2(row_max - pivot)
        row_max = new_max
        row_sum = row_sum * shrink + real_sum(weights, keys < num_keys)
        acc_head, acc_tail = rescale(acc_head, acc_tail, shrink, TAIL)
        v_head, v_tail = load_rows(v, keys.to(tl.int64), keys < num_keys, stride_vn, stride_vd, HEAD, TAIL, D, ALIGN)
        acc_head, acc_tail = add_weighted(acc_head, acc_tail, weights, v_head, v_tail, TAIL, PRECISION)
    acc_head, acc_tail, row_lse = finish(acc_head, acc_tail, row_max, row_sum, TAIL)
    store_rows(out, rows, inside, stride_on, stride_od, acc_head, acc_tail, HEAD, TAIL, D, ALIGN)
    tl.store(lse + batch_head * num_queries + rows, row_lse, mask=inside)


def streamed_keys_call(
    q: Any, k: Any, v: Any, out: Any, lse: Any, query_region: Any, query_frame: Any, key_region: Any,
    strength: Any, bias: Any, row_strength: Any, key_weight: Any, scale: float, precision: str, launch: Launch,
) -> Call:  # fmt: skip
    """The launch for these tensors; shapes as in `few_keys`, None for an absent table or factor."""
    batch, num_heads, num_queries, head_dim = q.shape
    num_keys = k.shape[2]
    head, tail = split_head_dim(head_dim)
    num_tiles = triton.cdiv(num_queries, launch.block_q)
    modulated = strength is not None
    table = strength if modulated else bias
    arguments = dict(
        q=q, k=k, v=v, out=out, lse=lse,
        query_region=query_region, query_frame=query_frame, key_region=key_region,
        strength=strength, bias=bias, row_strength=row_strength, key_weight=key_weight,
        num_heads=num_heads, num_queries=num_queries, num_keys=num_keys,
        num_frames=1 if table is None else table.shape[1],
        num_tiles=num_tiles, base2_scale=scale * math.log2(math.e),
        region_stride_q=item_stride(query_region), region_stride_k=item_stride(key_region),
        strength_stride=0 if row_strength is None else item_stride(row_strength),
        weight_stride=0 if key_weight is None else item_stride(key_weight),
        **strides(q, "q"), **strides(k, "k"), **strides(v, "v"), **strides(out, "o"),
        MODULATED=modulated, HAS_BIAS=bias is not None,
        HAS_ROW_STRENGTH=modulated and row_strength is not None,
        HAS_KEY_WEIGHT=modulated and key_weight is not None,
        BLOCK_Q=launch.block_q, BLOCK_K=launch.block_k, HEAD=head, TAIL=tail, D=head_dim,
        ALIGN=row_alignment(q, k, v, out), PRECISION=precision,
    )  # fmt: skip
    grid = (num_tiles * batch * num_heads,)
    return Call(streamed_keys_kernel, grid, arguments, options(launch.num_warps, launch.num_stages))
