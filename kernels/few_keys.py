"""Fused attention over few keys (text tokens), extremes and softmax in one launch.

    s_ij = scale * <q_i, k_j>,   same_ij = (region_i & region_j) != 0
    a_ij = lambda_i * g_j * A[same_ij, f_i]               tables that do not vary with the key frame
    z_ij = s_ij + a_ij * ((max_j s_ij if same_ij else min_j s_ij) - s_ij) + B[same_ij, f_i]
    out_i = softmax_j(z_ij) @ v,   lse_i = logsumexp_j(z_ij)

Memory bounds it: q is read once, out written once. Queries keep their own order (no plan, contiguous rows) and
`same` is found per element. With ONE_TILE all keys fit one tile: K and V stay on chip while the program walks over
its query tiles. Otherwise each query tile passes over the key tiles twice, extremes first.

q, out [B, H, Nq, D], k, v [B, H, Nk, D] with any strides; query_region, query_frame [P, Nq] and key_region [P, Nk]
int32; strength, bias float32 [2, Fq] (natural log, -inf excludes); row_strength [P, Nq], key_weight [P, Nk] float32;
lse float32 [B, H, Nq] contiguous.
"""

import math
from typing import Any

import triton
import triton.language as tl

from .launch import Call, Launch, item_stride, options, row_alignment, split_head_dim, strides
from .softmax import LOG2E, finish
from .tiles import add_weighted, head_of, load_rows, logits_tile, rescale, store_rows


@triton.jit
def _logits(
    q_head, q_tail, k_head, k_tail, bits_q, bits_k, inside, bias_same, bias_other, base2_scale,
    HAS_BIAS: tl.constexpr, TAIL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of one tile, [BLOCK_Q, BLOCK_K]: logits in base-2 units, `same`, the bias, and which pairs count."""
    z = logits_tile(q_head, q_tail, k_head, k_tail, TAIL, PRECISION) * base2_scale
    same = (bits_q[:, None] & bits_k[None, :]) != 0
    bias = tl.zeros_like(z)
    seen = tl.broadcast_to(inside[None, :], z.shape)
    if HAS_BIAS:
        bias = tl.where(same, bias_same[:, None], bias_other[:, None]) * LOG2E
        seen = seen & (bias > -float("inf"))
    return z, same, bias, seen


@triton.jit
def _widen(z, seen, high, low):
    """Row extremes over the pairs that count, widened by a tile."""
    high = tl.maximum(high, tl.max(tl.where(seen, z, -float("inf")), 1))
    low = tl.minimum(low, tl.min(tl.where(seen, z, float("inf")), 1))
    return high, low


@triton.jit
def _modulate(z, same, high, low, strength_same, strength_other, weight):
    """z pulled to its row's extremes; rows that see nothing keep finite extremes."""
    high = tl.where(high == -float("inf"), 0.0, high)
    low = tl.where(low == float("inf"), 0.0, low)
    strength = tl.where(same, strength_same[:, None], strength_other[:, None]) * weight[None, :]
    return z + strength * (tl.where(same, high[:, None], low[:, None]) - z)


@triton.jit
def _load_keys(
    k, key_region, keys, num_keys, stride_n, stride_d, HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """Which of the keys are real, their region bits and both blocks of their rows."""
    inside = keys < num_keys
    bits = tl.load(key_region + keys, mask=inside, other=0)
    head, tail = load_rows(k, keys.to(tl.int64), inside, stride_n, stride_d, HEAD, TAIL, D, ALIGN)
    return inside, bits, head, tail


@triton.jit
def _load_weight(key_weight, keys, inside, HAS_KEY_WEIGHT: tl.constexpr):
    """g of the keys, 1 where there is none."""
    if HAS_KEY_WEIGHT:
        return tl.load(key_weight + keys, mask=inside, other=0.0)
    else:
        return tl.full(keys.shape, 1.0, tl.float32)


@triton.jit
def few_keys_kernel(
    q, k, v, out, lse, query_region, query_frame, key_region, strength, bias, row_strength, key_weight,
    num_heads, num_queries, num_keys, num_frames, programs_per_head, base2_scale,
    region_stride_q, region_stride_k, strength_stride, weight_stride,
    stride_qb, stride_qh, stride_qn, stride_qd, stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd, stride_ob, stride_oh, stride_on, stride_od,
    MODULATED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_ROW_STRENGTH: tl.constexpr, HAS_KEY_WEIGHT: tl.constexpr,
    ONE_TILE: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    batch_head = (program // programs_per_head).to(tl.int64)
    batch, head = batch_head // num_heads, batch_head % num_heads
    q = head_of(q, batch, head, stride_qb, stride_qh, ALIGN)
    k = head_of(k, batch, head, stride_kb, stride_kh, ALIGN)
    v = head_of(v, batch, head, stride_vb, stride_vh, ALIGN)
    out = head_of(out, batch, head, stride_ob, stride_oh, ALIGN)
    query_region += batch * region_stride_q
    query_frame += batch * region_stride_q
    key_region += batch * region_stride_k
    lane_q, lane_k = tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_K)
    if HAS_ROW_STRENGTH:
        row_strength += batch * strength_stride
    if HAS_KEY_WEIGHT:
        key_weight += batch * weight_stride

    if ONE_TILE:
        keys_inside, bits_k, k_head, k_tail = _load_keys(
            k, key_region, lane_k, num_keys, stride_kn, stride_kd, HEAD, TAIL, D, ALIGN
        )
        v_head, v_tail = load_rows(v, lane_k.to(tl.int64), keys_inside, stride_vn, stride_vd, HEAD, TAIL, D, ALIGN)
        weight = _load_weight(key_weight, lane_k, keys_inside, HAS_KEY_WEIGHT)

    for tile in range(program % programs_per_head, tl.cdiv(num_queries, BLOCK_Q), programs_per_head):
        rows = (tile * BLOCK_Q + lane_q).to(tl.int64)
        rows_inside = rows < num_queries
        q_head, q_tail = load_rows(q, rows, rows_inside, stride_qn, stride_qd, HEAD, TAIL, D, ALIGN)
        bits_q = tl.load(query_region + rows, mask=rows_inside, other=0)
        frame = tl.load(query_frame + rows, mask=rows_inside, other=0)
        strength_same = tl.full([BLOCK_Q], 0.0, tl.float32)
        strength_other, bias_same, bias_other = strength_same, strength_same, strength_same
        if MODULATED:
            strength_other = tl.load(strength + frame)
            strength_same = tl.load(strength + num_frames + frame)
        if HAS_ROW_STRENGTH:
            factor = tl.load(row_strength + rows, mask=rows_inside, other=0.0)
            strength_other *= factor
            strength_same *= factor
        if HAS_BIAS:
            bias_other = tl.load(bias + frame)
            bias_same = tl.load(bias + num_frames + frame)

        high = tl.full([BLOCK_Q], -float("inf"), tl.float32)
        low = tl.full([BLOCK_Q], float("inf"), tl.float32)
        row_max = high
        row_sum = tl.zeros([BLOCK_Q], tl.float32)
        acc_head = tl.zeros([BLOCK_Q, HEAD], tl.float32)
        acc_tail = acc_head
        if TAIL > 0:
            acc_tail = tl.zeros([BLOCK_Q, TAIL], tl.float32)
        if ONE_TILE:
            z, same, pair_bias, seen = _logits(
                q_head, q_tail, k_head, k_tail, bits_q, bits_k, keys_inside, bias_same, bias_other, base2_scale,
                HAS_BIAS, TAIL, PRECISION,
            )  # fmt: skip
            if MODULATED:
                high, low = _widen(z, seen, high, low)
                z = _modulate(z, same, high, low, strength_same, strength_other, weight)
            z = tl.where(seen, z + pair_bias, -float("inf"))
            row_max = tl.max(z, 1)
            weights = tl.exp2(z - tl.where(row_max == -float("inf"), 0.0, row_max)[:, None])
            row_sum = tl.sum(weights, 1)
            acc_head, acc_tail = add_weighted(acc_head, acc_tail, weights, v_head, v_tail, TAIL, PRECISION)
        else:
            if MODULATED:
                for start in range(0, num_keys, BLOCK_K):
                    inside, bits, kc_head, kc_tail = _load_keys(
                        k, key_region, start + lane_k, num_keys, stride_kn, stride_kd, HEAD, TAIL, D, ALIGN
                    )
                    z, same, pair_bias, seen = _logits(
                        q_head, q_tail, kc_head, kc_tail, bits_q, bits, inside, bias_same, bias_other, base2_scale,
                        HAS_BIAS, TAIL, PRECISION,
                    )  # fmt: skip
                    high, low = _widen(z, seen, high, low)
            for start in range(0, num_keys, BLOCK_K):
                inside, bits, kc_head, kc_tail = _load_keys(
                    k, key_region, start + lane_k, num_keys, stride_kn, stride_kd, HEAD, TAIL, D, ALIGN
                )
                z, same, pair_bias, seen = _logits(
                    q_head, q_tail, kc_head, kc_tail, bits_q, bits, inside, bias_same, bias_other, base2_scale,
                    HAS_BIAS, TAIL, PRECISION,
                )  # fmt: skip
                if MODULATED:
                    tile_weight = _load_weight(key_weight, start + lane_k, inside, HAS_KEY_WEIGHT)
                    z = _modulate(z, same, high, low, strength_same, strength_other, tile_weight)
                z = tl.where(seen, z + pair_bias, -float("inf"))
                new_max = tl.maximum(row_max, tl.max(z, 1))
                pivot = tl.where(new_max == -float("inf"), 0.0, new_max)
                weights = tl.exp2(z - pivot[:, None])
                factor = tl.exp2(row_max - pivot)
                row_max = new_max
                row_sum = row_sum * factor + tl.sum(weights, 1)
                acc_head, acc_tail = rescale(acc_head, acc_tail, factor, TAIL)
                keys = (start + lane_k).to(tl.int64)
                vc_head, vc_tail = load_rows(v, keys, inside, stride_vn, stride_vd, HEAD, TAIL, D, ALIGN)
                acc_head, acc_tail = add_weighted(acc_head, acc_tail, weights, vc_head, vc_tail, TAIL, PRECISION)

        acc_head, acc_tail, row_lse = finish(acc_head, acc_tail, row_max, row_sum, TAIL)
        store_rows(out, rows, rows_inside, stride_on, stride_od, acc_head, acc_tail, HEAD, TAIL, D, ALIGN)
        tl.store(lse + batch_head * num_queries + rows, row_lse, mask=rows_inside)


def few_keys_call(
    q: Any, k: Any, v: Any, out: Any, lse: Any, query_region: Any, query_frame: Any, key_region: Any,
    strength: Any, bias: Any, row_strength: Any, key_weight: Any, scale: float, precision: str, programs: int,
    launch: Launch,
) -> Call:  # fmt: skip
    """The launch for these tensors; shapes as in the heading, None for an absent table or factor. programs: how many
    the chip runs at once; each keeps its keys and walks over query tiles."""
    batch, num_heads, num_queries, head_dim = q.shape
    num_keys = k.shape[2]
    head, tail = split_head_dim(head_dim)
    per_head = max(1, min(triton.cdiv(num_queries, launch.block_q), triton.cdiv(programs, batch * num_heads)))
    modulated = strength is not None
    table = strength if modulated else bias
    arguments = dict(
        q=q, k=k, v=v, out=out, lse=lse,
        query_region=query_region, query_frame=query_frame, key_region=key_region,
        strength=strength, bias=bias, row_strength=row_strength, key_weight=key_weight,
        num_heads=num_heads, num_queries=num_queries, num_keys=num_keys,
        num_frames=1 if table is None else table.shape[1],
        programs_per_head=per_head, base2_scale=scale * math.log2(math.e),
        region_stride_q=item_stride(query_region), region_stride_k=item_stride(key_region),
        strength_stride=0 if row_strength is None else item_stride(row_strength),
        weight_stride=0 if key_weight is None else item_stride(key_weight),
        **strides(q, "q"), **strides(k, "k"), **strides(v, "v"), **strides(out, "o"),
        MODULATED=modulated, HAS_BIAS=bias is not None,
        HAS_ROW_STRENGTH=modulated and row_strength is not None,
        HAS_KEY_WEIGHT=modulated and key_weight is not None,
        ONE_TILE=num_keys <= launch.block_k, BLOCK_Q=launch.block_q, BLOCK_K=launch.block_k,
        HEAD=head, TAIL=tail, D=head_dim,
        ALIGN=row_alignment(q, k, v, out), PRECISION=precision,
    )  # fmt: skip
    grid = (per_head * batch * num_heads,)
    return Call(few_keys_kernel, grid, arguments, options(launch.num_warps, launch.num_stages))
