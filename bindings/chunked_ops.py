"""Layout attention from torch matrix products in chunks of rows: any tables, any factors, O(N) extra memory.

Serves what the grouped operator cannot: key weights, strengths that vary with the frame, and few keys, where a chunk
of logits is small anyway.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .library import declare, empty_outputs
from .torch_attention import row_chunks


def _chunked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_region: Tensor,
    query_frame: Tensor,
    key_region: Tensor,
    key_frame: Tensor,
    strength: Tensor | None,
    bias: Tensor | None,
    row_strength: Tensor | None,
    key_weight: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """query [B, H, Nq, D], key, value [B, H, Nk, D]; query_region, query_frame [P, Nq], key_region, key_frame
    [P, Nk] int32; strength, bias [2, Fq, Fk] float32 (bias -inf excludes); row_strength [P, Nq], key_weight [P, Nk]
    float32; every P is 1 or B."""
    out, lse = empty_outputs(query)
    batch, heads, num_queries, _ = query.shape
    chunks = row_chunks(batch * heads, num_queries, key.shape[2])
    keys = key.transpose(-1, -2).float()  # logits may pass float16's range
    for start in chunks:
        rows = slice(start, start + chunks.step)
        logits = (query[:, :, rows].float() @ keys).mul_(scale)
        same = (query_region[:, rows, None] & key_region[:, None, :]) != 0
        place = (same.long(), query_frame[:, rows, None].long(), key_frame[:, None, :].long())
        pair_bias = None if bias is None else bias[place][:, None]
        hidden = None if pair_bias is None else pair_bias == -math.inf
        if strength is not None:
            pull = strength[place]
            if row_strength is not None:
                pull = pull * row_strength[:, rows, None]
            if key_weight is not None:
                pull = pull * key_weight[:, None, :]
            _pull(logits, pull[:, None], same[:, None], hidden)
        if pair_bias is not None:
            logits += pair_bias
        chunk_lse = logits.logsumexp(-1)
        lse[:, :, rows] = chunk_lse
        weights = logits.softmax(-1).masked_fill_((chunk_lse == -math.inf)[..., None], 0)
        out[:, :, rows] = weights.to(value.dtype) @ value
    return out, lse


def _pull(logits: Tensor, strength: Tensor, same: Tensor, hidden: Tensor | None) -> None:
    """logits += strength * (extreme - logits) in place; the extremes are over keys that are not hidden."""
    high, low = logits, logits
    if hidden is not None:
        high, low = logits.masked_fill(hidden, -math.inf), logits.masked_fill(hidden, math.inf)
    high, low = high.amax(-1, keepdim=True), low.amin(-1, keepdim=True)
    if hidden is not None:
        high.masked_fill_(high == -math.inf, 0)
        low.masked_fill_(low == math.inf, 0)
    logits.addcmul_(strength, torch.where(same, high, low) - logits)


chunked_attention = declare(
    "chunked_attention",
    "(Tensor query, Tensor key, Tensor value, Tensor query_region, Tensor query_frame, Tensor key_region, "
    "Tensor key_frame, Tensor? strength, Tensor? bias, Tensor? row_strength, Tensor? key_weight, float scale)",
    _chunked_attention,
    ("CompositeExplicitAutograd",),
)
