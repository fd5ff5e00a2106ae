"""The specification of layout attention, eager: the oracle that every backend is tested against.

It materializes the N x N logits, runs on any device and in any floating dtype, and computes in the dtype of its inputs.
Use it in float64 to judge the other backends, not to edit videos.
"""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor

from fame_accel.core.layout import TokenLayout
from fame_accel.core.modulation import Modulation
from fame_accel.core.validation import check_call


@overload
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
    return_lse: Literal[False] = False,
) -> Tensor: ...
@overload
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
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...
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
    """Attention modulated by regions and frames, as `fame_accel.layout_attention`, materialized; float64 too."""
    call = check_call(
        query, key, value, query_layout, key_layout, modulation, row_strength, key_weight, scale, doubles=True
    )
    query_layout, key_layout, tables = call.query_layout, call.key_layout, call.modulation
    with torch.autocast(query.device.type, enabled=False):  # it computes in the dtype of its inputs
        out, lse = evaluate(
            query, key, value, query_layout.region, query_layout.frame, key_layout.region, key_layout.frame,
            tables.strength_table, tables.bias_table, call.row_strength, call.key_weight, call.scale,
        )  # fmt: skip
    return (out, lse) if return_lse else out


def evaluate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_region: Tensor,
    query_frame: Tensor,
    key_region: Tensor,
    key_frame: Tensor,
    strength_table: Tensor | None,
    bias_table: Tensor | None,
    row_strength: Tensor | None,
    key_weight: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The operation of DESIGN section 1 on checked arguments.

    Args:
        query, key, value: [B, H, Nq, D], and twice [B, H, Nk, D], of any floating dtype.
        query_region, query_frame, key_region, key_frame: int [P, Nq] and [P, Nk]; each P, here and below, is 1 or B.
        strength_table, bias_table: A and B, [2, Fq, Fk]; None is 0.
        row_strength, key_weight: [P, Nq] and [P, Nk]; None is 1.
        scale: of the logits.

    Returns:
        out [B, H, Nq, D] in the dtype of the query, and lse [B, H, Nq], float64 for float64 and otherwise float32.
    """
    if key.shape[2] == 0:
        lse_dtype = torch.promote_types(query.dtype, torch.float32)
        return torch.zeros_like(query), query.new_full(query.shape[:3], -math.inf, dtype=lse_dtype)
    logits = scale * (query @ key.transpose(-1, -2))
    same = (query_region[:, :, None] & key_region[:, None, :]) != 0
    index = (same.long(), query_frame.long()[:, :, None], key_frame.long()[:, None, :])
    bias = _at_pairs(bias_table, index, logits)
    strength = _at_pairs(strength_table, index, logits)
    del index  # its memory is that of the logits, or twice that
    if strength is not None:
        if row_strength is not None:
            strength = strength * row_strength.to(logits.dtype)[:, None, :, None]
        if key_weight is not None:
            strength = strength * key_weight.to(logits.dtype)[:, None, None, :]
        seen = torch.ones_like(same[:, None]) if bias is None else bias > -math.inf
        high = logits.masked_fill(~seen, -math.inf).amax(-1, keepdim=True)
        low = logits.masked_fill(~seen, math.inf).amin(-1, keepdim=True)
        modulated = logits + strength * (torch.where(same[:, None], high, low) - logits)
        logits = torch.where(seen, modulated, logits)
    if bias is not None:
        logits = logits + bias
    lse = torch.logsumexp(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)
    weights = torch.softmax(logits, -1).masked_fill((lse == -math.inf)[..., None], 0)
    return weights @ value, lse


def _at_pairs(table: Tensor | None, index: tuple[Tensor, Tensor, Tensor], like: Tensor) -> Tensor | None:
    """table[same, query frame, key frame] as [P, 1, Nq, Nk] in the dtype of `like`."""
    return None if table is None else table.to(device=like.device, dtype=like.dtype)[index][:, None]
