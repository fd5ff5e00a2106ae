"""Fused attention over few keys (text tokens), all of them held at once: extremes and softmax in one visit.

    s_ij = scale * <q_i, k_j>,   same_ij = (region_i & region_j) != 0
    a_ij = lambda_i * g_j * A[same_ij, f_i]               tables that do not vary with the key frame
    z_ij = s_ij + a_ij * ((max_j s_ij if same_ij else min_j s_ij) - s_ij) + B[same_ij, f_i]
    out_i = softmax_j(z_ij) @ v,   lse_i = logsumexp_j(z_ij)

Memory bounds it: q is read once, out written once. Queries keep their own order (no plan, contiguous rows). A program
walks over query tiles of one head and keeps its keys on chip, in one or two power-of-two blocks (77 as 64 + 16).

q, out [B, H, Nq, D], k, v [B, H, Nk, D] with any strides; query_region, query_frame [P, Nq] and key_region [P, Nk]
int32; strength, bias float32 [2, Fq] (natural log, -inf excludes); row_strength [P, Nq], key_weight [P, Nk] float32;
lse float32 [B, H, Nq] contiguous.
"""

import math
from typing import Any

import triton
import triton.language as tl

from .launch import Call, Launch, item_stride, options, row_alignment, split_head_dim, strides
from .pairs import exponents, load_keys, real_sum, table_rows, toward_extremes, widen
from .softmax import LOG2E, finish
from .tiles import add_weighted, head_of, load_rows, logits_tile, store_rows


@triton.jit
def few_keys_kernel(
    q, k, v, out, lse, query_region, query_frame, key_region, strength, bias, row_strength, key_weight,
    num_heads, num_queries, num_keys, num_frames, programs_per_head, base2_scale,
    region_stride_q, region_stride_k, strength_stride, weight_stride,
    stride_qb, stride_qh, stride_qn, stride_qd, stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd, stride_ob, stride_oh, stride_on, stride_od,
    MODULATED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_ROW_STRENGTH: tl.constexpr, HAS_KEY_WEIGHT: tl.constexpr,
    BLOCK_Q: tl.constexpr, KEYS: tl.constexpr, REST: tl.constexpr,
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
    if HAS_ROW_STRENGTH:
        row_strength += batch * strength_stride
    if HAS_KEY_WEIGHT:
        key_weight += batch * weight_stride
    keys = tl.arange(0, KEYS)
    rest = KEYS + tl.arange(0, REST) if REST > 0 else keys
    bits, weight, k_head, k_tail = load_keys(
        k, key_region, key_weight, keys, num_keys, stride_kn, stride_kd, HAS_KEY_WEIGHT, HEAD, TAIL, D, ALIGN
    )
    v_head, v_tail = load_rows(v, keys.to(tl.int64), keys < num_keys, stride_vn, stride_vd, HEAD, TAIL, D, ALIGN)
    if REST > 0:
        rest_bits, rest_weight, rest_k_head, rest_k_tail = load_keys(
            k, key_region, key_weight, rest, num_keys, stride_kn, stride_kd, HAS_KEY_WEIGHT, HEAD, TAIL, D, ALIGN
        )
        rest_v_head, rest_v_tail = load_rows(
            v, rest.to(tl.int64), rest < num_keys, stride_vn, stride_vd, HEAD, TAIL, D, ALIGN
        )

    for tile in range(program % programs_per_head, tl.cdiv(num_queries, BLOCK_Q), programs_per_head):
        rows = (tile * BLOCK_Q + tl.arange(0, BLOCK_Q)).to(tl.int64)
        inside = rows < num_queries
        q_head, q_tail = load_rows(q, rows, inside, stride_qn, stride_qd, HEAD, TAIL, D, ALIGN)
        bits_q = tl.load(query_region + rows, mask=inside, other=0)
        frame = tl.load(query_frame + rows, mask=inside, other=0)
        factor = tl.full([BLOCK_Q], 1.0, tl.float32)
        bias_same, bias_other = table_rows(bias, frame, num_frames, factor * LOG2E, HAS_BIAS)
        if HAS_ROW_STRENGTH:
            factor = tl.load(row_strength + rows, mask=inside, other=0.0)
        strength_same, strength_other = table_rows(strength, frame, num_frames, factor, MODULATED)

        s = logits_tile(q_head, q_tail, k_head, k_tail, TAIL, PRECISION)
        same = (bits_q[:, None] & bits[None, :]) != 0
        if REST > 0:
            rest_s = logits_tile(q_head, q_tail, rest_k_head, rest_k_tail, TAIL, PRECISION)
            rest_same = (bits_q[:, None] & rest_bits[None, :]) != 0
        if MODULATED:
            high = tl.full([BLOCK_Q], -float("inf"), tl.float32)
            low = tl.full([BLOCK_Q], float("inf"), tl.float32)
            high, low = widen(s, same, bias_same, bias_other, high, low, HAS_BIAS)
            if REST > 0:
                high, low = widen(rest_s, rest_same, bias_same, bias_other, high, low, HAS_BIAS)
                rest_s = toward_extremes(
                    rest_s, rest_same, high, low, strength_same, strength_other, rest_weight, HAS_KEY_WEIGHT
                )
            s = toward_extremes(s, same, high, low, strength_same, strength_other, weight, HAS_KEY_WEIGHT)
        z, row_max = exponents(s, same, bias_same, bias_other, base2_scale, HAS_BIAS)
        if REST > 0:
            rest_z, rest_max = exponents(rest_s, rest_same, bias_same, bias_other, base2_scale, HAS_BIAS)
            row_max = tl.maximum(row_max, rest_max)
        pivot = tl.where(row_max == -float("inf"), 0.0, row_max)
        weights = tl.exp2(z - pivot[:, None])
        row_sum = real_sum(weights, keys < num_keys)
        acc_head = tl.zeros([BLOCK_Q, HEAD], tl.float32)
        acc_tail = acc_head
        if TAIL > 0:
            acc_tail = tl.zeros([BLOCK_Q, TAIL], tl.float32)
        acc_head, acc_tail = add_weighted(acc_head, acc_tail, weights, v_head, v_tail, TAIL, PRECISION)
        if REST > 0:
            weights = tl.exp2(rest_z - pivot[:, None])
            row_sum += real_sum(weights, rest < num_keys)
            acc_head, acc_tail = add_weighted(acc_head, acc_tail, weights, rest_v_head, rest_v_tail, TAIL, PRECISION)
        acc_head, acc_tail, row_lse = finish(acc_head, acc_tail, row_max, row_sum, TAIL)
        store_rows(out, rows, inside, stride_on, stride_od, acc_head, acc_tail, HEAD, TAIL, D, ALIGN)
        tl.store(lse + batch_head * num_queries + rows, row_lse, mask=inside)


def few_keys_call(
    q: Any, k: Any, v: Any, out: Any, lse: Any, query_region: Any, query_frame: Any, key_region: Any,
    strength: Any, bias: Any, row_strength: Any, key_weight: Any, scale: float, precision: str, programs: int,
    launch: Launch,
) -> Call:  # fmt: skip
    """The launch for these tensors; shapes as in the heading, None for an absent table or factor.

    The chip runs `programs` programs at once; each keeps its keys and walks over query tiles.
    """
    batch, num_heads, num_queries, head_dim = q.shape
    num_keys = k.shape[2]
    keys, rest = split_head_dim(num_keys)
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
        BLOCK_Q=launch.block_q, KEYS=keys, REST=rest, HEAD=head, TAIL=tail, D=head_dim,
        ALIGN=row_alignment(q, k, v, out), PRECISION=precision,
    )  # fmt: skip
    grid = (per_head * batch * num_heads,)
    return Call(few_keys_kernel, grid, arguments, options(launch.num_warps, launch.num_stages))
