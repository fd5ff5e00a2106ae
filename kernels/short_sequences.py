"""Fused attention over many short sequences, as motion modules call it: the F <= 32 frames of every pixel.

    s_ij = scale * <q_i, k_j>,   same_ij = (region_i & region_j) != 0
    a_ij = lambda_i * g_j * A[same_ij, f_i, f_j]
    z_ij = s_ij + a_ij * ((max_j s_ij if same_ij else min_j s_ij) - s_ij) + B[same_ij, f_i, f_j]
    out_i = softmax_j(z_ij) @ v,   lse_i = logsumexp_j(z_ij)

Memory bounds it: q, k, v are read once, out and lse written once. A program holds ITEMS batch items in products of
one small matrix per item. It finds a and B of their pairs once and walks over the heads, whose rows lie side by side
in memory and share its sectors; where that makes too few programs, neighbouring programs divide the heads.

q, out [B, H, Nq, D], k, v [B, H, Nk, D] with any strides, Nq and Nk up to 32; query_region, query_frame [P, Nq] and
key_region, key_frame [P, Nk] int32; strength, bias float32 [2, Fq, Fk] (natural log, -inf excludes); row_strength
[P, Nq], key_weight [P, Nk] float32; lse float32 [B, H, Nq] contiguous.
"""

import math
from typing import Any

import triton
import triton.language as tl

from .launch import Call, item_stride, options, row_alignment, split_head_dim, strides
from .launch_table import ShortLaunch
from .softmax import LN2, LOG2E
from .tiles import logits_tile


@triton.jit
def _by_token(of_item, of_token, ITEMS: tl.constexpr):
    """Sum of what an item and a token contribute to an offset: [ITEMS, tokens], or [tokens] where ITEMS is 1."""
    if ITEMS > 1:
        return of_item[:, None] + of_token[None, :]
    else:
        return of_item + of_token


@triton.jit
def _row_offsets(token, stride_b, stride_n, ITEMS: tl.constexpr, ALIGN: tl.constexpr, WIDE: tl.constexpr):
    """Offsets of the rows from the first item's, int64 where WIDE."""
    token = token.to(tl.int64 if WIDE else tl.int32)
    if ITEMS > 1:
        item = tl.arange(0, ITEMS).to(token.dtype)
        return tl.multiple_of(item[:, None] * stride_b + token[None, :] * stride_n, [ALIGN, ALIGN])
    else:
        return tl.multiple_of(token * stride_n, [ALIGN])


@triton.jit
def _columns(base, rows, inside, stride_d, FIRST: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr):
    """Addresses of columns FIRST.. of the rows at these offsets, [.., tokens, WIDTH], and which are real."""
    dim = FIRST + tl.arange(0, WIDTH)
    mask = tl.expand_dims(inside, -1)
    if FIRST + WIDTH > D:
        mask = mask & (dim < D)
    return base + tl.expand_dims(rows, -1) + dim.to(rows.dtype) * stride_d, mask


@triton.jit
def _load_rows(base, rows, inside, stride_d, HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr):
    """Both blocks of the rows, zero past head_dim D and outside."""
    pointers, mask = _columns(base, rows, inside, stride_d, 0, HEAD, D)
    head = tl.load(pointers, mask=mask, other=0.0)
    tail = head
    if TAIL > 0:
        pointers, mask = _columns(base, rows, inside, stride_d, HEAD, TAIL, D)
        tail = tl.load(pointers, mask=mask, other=0.0)
    return head, tail


@triton.jit
def _store_block(base, rows, inside, stride_d, block, FIRST: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr):
    pointers, mask = _columns(base, rows, inside, stride_d, FIRST, WIDTH, D)
    tl.store(pointers, block.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _per_token(base, items, stride, token, inside, ITEMS: tl.constexpr):
    """The tokens' entries of a [P, N] tensor, zero outside."""
    return tl.load(base + _by_token(items * stride, token, ITEMS), mask=inside, other=0)


@triton.jit
def _regions_and_frames(
    query_region, query_frame, key_region, key_frame, items, lane_q, lane_k, inside_q, inside_k,
    region_stride_q, region_stride_k, frame_stride_q, frame_stride_k, num_queries, num_keys, key_frames,
    SHARED_FRAMES: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """Of all pairs: `same`, and the index of their frames in a table [Fq, Fk]; one index for all items where
    SHARED_FRAMES."""
    bits_q = _per_token(query_region, items, region_stride_q, lane_q, inside_q, ITEMS)
    bits_k = _per_token(key_region, items, region_stride_k, lane_k, inside_k, ITEMS)
    if SHARED_FRAMES:
        frame_q = tl.load(query_frame + lane_q, mask=lane_q < num_queries, other=0)
        frame_k = tl.load(key_frame + lane_k, mask=lane_k < num_keys, other=0)
    else:
        frame_q = _per_token(query_frame, items, frame_stride_q, lane_q, inside_q, ITEMS)
        frame_k = _per_token(key_frame, items, frame_stride_k, lane_k, inside_k, ITEMS)
    same = (tl.expand_dims(bits_q, -1) & tl.expand_dims(bits_k, -2)) != 0
    return same, tl.expand_dims(frame_q, -1) * key_frames + tl.expand_dims(frame_k, -2)


@triton.jit
def _toward_extremes(logits, strength, seen, AXIS: tl.constexpr):
    """The row's highest logit over the keys that are seen, and the logits less it, moved toward an extreme.

    That is the highest where the strength is positive (same region), the lowest where it is negative. Less the highest,
    large logits that are nearly equal keep their differences and the bias added to them.
    """
    high = tl.max(tl.where(seen, logits, -float("inf")), AXIS)
    low = tl.min(tl.where(seen, logits, float("inf")), AXIS)
    high = tl.where(high == -float("inf"), 0.0, high)  # rows that see nothing keep finite extremes
    low = tl.where(low == float("inf"), 0.0, low) - high
    z = logits - tl.expand_dims(high, -1)
    return z + tl.abs(strength) * (tl.where(strength > 0, 0.0, tl.expand_dims(low, -1)) - z), high


@triton.jit
def short_sequences_kernel(
    q, k, v, out, lse, query_region, query_frame, key_region, key_frame, strength, bias, row_strength, key_weight,
    num_items, num_heads, num_queries, num_keys, query_frames, key_frames, heads_per_program, base2_scale,
    region_stride_q, region_stride_k, frame_stride_q, frame_stride_k, strength_stride, weight_stride,
    stride_qb, stride_qh, stride_qn, stride_qd, stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd, stride_ob, stride_oh, stride_on, stride_od,
    MODULATED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_ROW_STRENGTH: tl.constexpr, HAS_KEY_WEIGHT: tl.constexpr,
    SHARED_FRAMES: tl.constexpr, ITEMS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr, ALIGN: tl.constexpr, WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    AXIS: tl.constexpr = 2 if ITEMS > 1 else 1  # of the keys
    parts = tl.cdiv(num_heads, heads_per_program)
    program = tl.program_id(0)
    first_head = program % parts * heads_per_program
    first_item = (program // parts).to(tl.int64) * ITEMS
    lane_q, lane_k = tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_K)
    inside_q, inside_k = lane_q < num_queries, lane_k < num_keys
    items = first_item
    if ITEMS > 1:
        items = first_item + tl.arange(0, ITEMS)
        inside_q = (items < num_items)[:, None] & inside_q[None, :]
        inside_k = (items < num_items)[:, None] & inside_k[None, :]

    # Of all pairs, for every head: the strength, negative where the regions differ, and the bias in base-2 units.
    pair_bias = tl.where(lane_k < num_keys, 0.0, -float("inf"))[None, :]
    pair_strength = tl.zeros([BLOCK_Q, BLOCK_K], tl.float32)
    if MODULATED or HAS_BIAS:
        same, index = _regions_and_frames(
            query_region, query_frame, key_region, key_frame, items, lane_q, lane_k, inside_q, inside_k,
            region_stride_q, region_stride_k, frame_stride_q, frame_stride_k, num_queries, num_keys, key_frames,
            SHARED_FRAMES, ITEMS,
        )  # fmt: skip
        same_index = index + query_frames * key_frames
        if MODULATED:
            pair_strength = tl.where(same, tl.load(strength + same_index), -tl.load(strength + index))
        if HAS_ROW_STRENGTH:
            factor = _per_token(row_strength, items, strength_stride, lane_q, inside_q, ITEMS)
            pair_strength *= tl.expand_dims(factor, -1)
        if HAS_KEY_WEIGHT:
            factor = _per_token(key_weight, items, weight_stride, lane_k, inside_k, ITEMS)
            pair_strength *= tl.expand_dims(factor, -2)
        if HAS_BIAS:
            pair_bias += tl.where(same, tl.load(bias + same_index), tl.load(bias + index)) * LOG2E

    q += tl.multiple_of(first_item * stride_qb, ALIGN)
    k += tl.multiple_of(first_item * stride_kb, ALIGN)
    v += tl.multiple_of(first_item * stride_vb, ALIGN)
    out += tl.multiple_of(first_item * stride_ob, ALIGN)
    rows_q = _row_offsets(lane_q, stride_qb, stride_qn, ITEMS, ALIGN, WIDE)
    rows_k = _row_offsets(lane_k, stride_kb, stride_kn, ITEMS, ALIGN, WIDE)
    rows_v = _row_offsets(lane_k, stride_vb, stride_vn, ITEMS, ALIGN, WIDE)
    rows_o = _row_offsets(lane_q, stride_ob, stride_on, ITEMS, ALIGN, WIDE)
    for head_index in range(first_head, tl.minimum(first_head + heads_per_program, num_heads)):
        head = tl.cast(head_index, tl.int64)
        q_at, k_at = tl.multiple_of(head * stride_qh, ALIGN), tl.multiple_of(head * stride_kh, ALIGN)
        v_at, o_at = tl.multiple_of(head * stride_vh, ALIGN), tl.multiple_of(head * stride_oh, ALIGN)
        q_head, q_tail = _load_rows(q + q_at, rows_q, inside_q, stride_qd, HEAD, TAIL, D)
        k_head, k_tail = _load_rows(k + k_at, rows_k, inside_k, stride_kd, HEAD, TAIL, D)
        v_head, v_tail = _load_rows(v + v_at, rows_v, inside_k, stride_vd, HEAD, TAIL, D)
        z = logits_tile(q_head, q_tail, k_head, k_tail, TAIL, PRECISION)
        if MODULATED:
            z, pivot = _toward_extremes(z, pair_strength, pair_bias > -float("inf"), AXIS)
        z = z * base2_scale + pair_bias
        row_max = tl.max(z, AXIS)
        row_max = tl.where(row_max == -float("inf"), 0.0, row_max)
        weights = tl.exp2(z - tl.expand_dims(row_max, -1))
        row_sum = tl.sum(weights, AXIS)
        weights = weights.to(v_head.dtype)
        empty = row_sum == 0.0
        row_sum = tl.where(empty, 1.0, row_sum)
        inverse = tl.expand_dims(1.0 / row_sum, -1)
        block = tl.dot(weights, v_head, input_precision=PRECISION) * inverse
        _store_block(out + o_at, rows_o, inside_q, stride_od, block, 0, HEAD, D)
        if TAIL > 0:
            block = tl.dot(weights, v_tail, input_precision=PRECISION) * inverse
            _store_block(out + o_at, rows_o, inside_q, stride_od, block, HEAD, TAIL, D)
        row_lse = row_max + tl.log2(row_sum)
        if MODULATED:
            row_lse += pivot * base2_scale
        row_lse = tl.where(empty, -float("inf"), row_lse * LN2)
        lse_rows = _by_token((items * num_heads + head) * num_queries, lane_q, ITEMS)
        tl.store(lse + lse_rows, row_lse, mask=inside_q)


def short_sequences_call(
    q: Any, k: Any, v: Any, out: Any, lse: Any, query_region: Any, query_frame: Any, key_region: Any, key_frame: Any,
    strength: Any, bias: Any, row_strength: Any, key_weight: Any, scale: float, precision: str, programs: int,
    launch: ShortLaunch,
) -> Call:  # fmt: skip
    """The launch for these tensors; shapes as in the heading, None for an absent table or factor. programs: how many
    keep the chip busy to the end; the heads are divided where the items alone make fewer."""
    batch, num_heads, num_queries, head_dim = q.shape
    num_keys = k.shape[2]
    head, tail = split_head_dim(head_dim)
    groups = triton.cdiv(batch, launch.items)
    per_program = triton.cdiv(num_heads, min(num_heads, triton.cdiv(programs, groups)))
    modulated = strength is not None
    table = strength if modulated else bias
    frame_strides = item_stride(query_frame), item_stride(key_frame)
    arguments = dict(
        q=q, k=k, v=v, out=out, lse=lse,
        query_region=query_region, query_frame=query_frame, key_region=key_region, key_frame=key_frame,
        strength=strength, bias=bias, row_strength=row_strength, key_weight=key_weight,
        num_items=batch, num_heads=num_heads, num_queries=num_queries, num_keys=num_keys,
        query_frames=1 if table is None else table.shape[1], key_frames=1 if table is None else table.shape[2],
        heads_per_program=per_program, base2_scale=scale * math.log2(math.e),
        region_stride_q=item_stride(query_region), region_stride_k=item_stride(key_region),
        frame_stride_q=frame_strides[0], frame_stride_k=frame_strides[1],
        strength_stride=0 if row_strength is None else item_stride(row_strength),
        weight_stride=0 if key_weight is None else item_stride(key_weight),
        **strides(q, "q"), **strides(k, "k"), **strides(v, "v"), **strides(out, "o"),
        MODULATED=modulated, HAS_BIAS=bias is not None,
        HAS_ROW_STRENGTH=modulated and row_strength is not None,
        HAS_KEY_WEIGHT=modulated and key_weight is not None,
        SHARED_FRAMES=frame_strides == (0, 0), ITEMS=launch.items,
        BLOCK_Q=max(16, triton.next_power_of_2(num_queries)), BLOCK_K=max(16, triton.next_power_of_2(num_keys)),
        HEAD=head, TAIL=tail, D=head_dim,
        ALIGN=row_alignment(q, k, v, out), WIDE=_past_int32(launch.items, q, k, v, out), PRECISION=precision,
    )  # fmt: skip
    grid = (groups * triton.cdiv(num_heads, per_program),)
    return Call(short_sequences_kernel, grid, arguments, options(launch.num_warps, launch.num_stages))


def _past_int32(items: int, *tensors: Any) -> bool:
    """Whether an offset within one head of so many items may pass 2**31 elements."""
    return any(items * t.stride(0) + 32 * t.stride(2) + t.shape[3] * t.stride(3) >= 2**31 for t in tensors)
