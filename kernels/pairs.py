"""Regions and tables looked up per pair of tokens, for kernels whose queries keep their own order.

Keys past the last repeat it, so that no row extreme notices them; their values are loaded as zeros.
"""

import triton
import triton.language as tl

from .tiles import load_rows


@triton.jit
def table_rows(table, frame, num_frames, factor, WANTED: tl.constexpr):
    """A [2, Fq] table at the rows' frames times a factor: values for the same region and for others."""
    if WANTED:
        return tl.load(table + num_frames + frame) * factor, tl.load(table + frame) * factor
    else:
        return factor, factor


@triton.jit
def load_keys(
    k, key_region, key_weight, keys, num_keys, stride_n, stride_d,
    HAS_KEY_WEIGHT: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Region bits, weights (1 without HAS_KEY_WEIGHT) and both blocks of the rows of keys."""
    last = tl.minimum(keys, num_keys - 1)
    head, tail = load_rows(k, last.to(tl.int64), keys >= 0, stride_n, stride_d, HEAD, TAIL, D, ALIGN)
    weight = tl.full(keys.shape, 1.0, tl.float32)
    if HAS_KEY_WEIGHT:
        weight = tl.load(key_weight + last)
    return tl.load(key_region + last), weight, head, tail


@triton.jit
def widen(s, same, bias_same, bias_other, high, low, HAS_BIAS: tl.constexpr):
    """Row extremes of s over the pairs that are not excluded, widened by a tile."""
    if HAS_BIAS:
        seen = tl.where(same, bias_same[:, None], bias_other[:, None]) > -float("inf")
        high = tl.maximum(high, tl.max(tl.where(seen, s, -float("inf")), 1))
        return high, tl.minimum(low, tl.min(tl.where(seen, s, float("inf")), 1))
    else:
        return tl.maximum(high, tl.max(s, 1)), tl.minimum(low, tl.min(s, 1))


@triton.jit
def toward_extremes(s, same, high, low, strength_same, strength_other, weight, HAS_KEY_WEIGHT: tl.constexpr):
    """s moved toward its row's extremes: s - g * (a * s - a * extreme)."""
    # rows that see nothing keep finite extremes
    high = tl.where(high == -float("inf"), 0.0, high)
    low = tl.where(low == float("inf"), 0.0, low)
    strength = tl.where(same, strength_same[:, None], strength_other[:, None])
    change = strength * s - tl.where(same, (strength_same * high)[:, None], (strength_other * low)[:, None])
    if HAS_KEY_WEIGHT:
        return s - weight[None, :] * change
    else:
        return s - change


@triton.jit
def exponents(s, same, bias_same, bias_other, base2_scale, HAS_BIAS: tl.constexpr):
    """s in base-2 units with its bias, and its row maxima."""
    if HAS_BIAS:
        z = s * base2_scale + tl.where(same, bias_same[:, None], bias_other[:, None])
        return z, tl.max(z, 1)
    else:
        return s * base2_scale, tl.max(s, 1) * base2_scale


@triton.jit
def real_sum(weights, inside):
    """Row sums of the weights of real keys."""
    return tl.sum(weights * tl.where(inside, 1.0, 0.0)[None, :], 1)
