"""The specification of layout attention, eager: the oracle every backend is tested against.

It materialises the N x N logits, runs on any device and in any floating dtype, and computes in the dtype of its
inputs. Use it in float64 to judge the other backends, not to edit videos.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fame_accel.core.layout import TokenLayout
from fame_accel.core.modulation import Modulation
from fame_accel.core.validation import Arguments, check


def layout_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_layout: TokenLayout,
    key_layout: TokenLayout | None = None,
    modulation: Modulation | None = None,
    *,
    row_strength: Tensor | None = None,
    key_weight: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention modulated by regions and frames, as `fame_accel.layout_attention`, materialised; fp64 too."""
    arguments = check(
        query, key, value, query_layout, key_layout, modulation, row_strength, key_weight, scale, doubles=True
    )
    out, lse = evaluate(arguments)
    return (out, lse) if return_lse else out


def evaluate(arguments: Arguments) -> tuple[Tensor, Tensor]:
    """out [B, H, Nq, D] in the dtype of the query and lse [B, H, Nq] (float64 for fp64, else float32)."""
    x = arguments
    if x.key.shape[2] == 0:
        lse = x.query.new_full(x.query.shape[:3], -math.inf, dtype=torch.promote_types(x.query.dtype, torch.float32))
        return torch.zeros_like(x.query), lse
    logits = x.scale * (x.query @ x.key.transpose(-1, -2))
    region_q, region_k = x.query_layout.region[:, :, None], x.key_layout.region[:, None, :]
    frame_q, frame_k = x.query_layout.frame.long()[:, :, None], x.key_layout.frame.long()[:, None, :]
    same = (region_q & region_k) != 0
    bias = _pairs(x.modulation.bias_table, same, frame_q, frame_k, logits)
    strength = _pairs(x.modulation.strength_table, same, frame_q, frame_k, logits)
    if strength is not None:
        if x.row_strength is not None:
            strength = strength * x.row_strength.to(logits.dtype)[:, None, :, None]
        if x.key_weight is not None:
            strength = strength * x.key_weight.to(logits.dtype)[:, None, None, :]
        seen = torch.ones_like(same[:, None]) if bias is None else bias > -math.inf
        high = logits.masked_fill(~seen, -math.inf).amax(-1, keepdim=True)
        low = logits.masked_fill(~seen, math.inf).amin(-1, keepdim=True)
        pulled = logits + strength * (torch.where(same[:, None], high, low) - logits)
        logits = torch.where(seen, pulled, logits)
    if bias is not None:
        logits = logits + bias
    lse = torch.logsumexp(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)
    weights = torch.softmax(logits, -1).masked_fill((lse == -math.inf)[..., None], 0)
    return weights @ x.value, lse


def _pairs(table: Tensor | None, same: Tensor, frame_q: Tensor, frame_k: Tensor, like: Tensor) -> Tensor | None:
    """table[same, frame_q, frame_k] as [P, 1, Nq, Nk] in the dtype of `like`."""
    if table is None:
        return None
    return table.to(device=like.device, dtype=like.dtype)[same.long(), frame_q, frame_k][:, None]
