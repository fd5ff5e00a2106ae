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
    keys = key.transpose(-1, -2).float() * scale  # logits may pass float16's range
    for start in chunks:
        rows = slice(start, start + chunks.step)
        logits = query[:, :, rows].float() @ keys
        same = (query_region[:, rows, None] & key_region[:, None, :]) != 0
        frames = (query_frame[:, rows], key_frame)
        pair_bias = None if bias is None else _of_pairs(bias, same, *frames)[:, None]
        hidden = None if pair_bias is None else pair_bias == -math.inf
        if strength is not None:
            pull = _of_pairs(strength, same, *frames)
            if row_strength is not None:
                pull = pull * row_strength[:, rows, None]
            if key_weight is not None:
                pull = pull * key_weight[:, None, :]
            _pull(logits, pull[:, None], same[:, None], hidden)
        if pair_bias is not None:
            logits += pair_bias
        highest = logits.amax(-1, keepdim=True)
        weights = logits.softmax(-1)
        # the largest weight is 1 / sum exp(logits - highest): no second pass of exp
        lse[:, :, rows] = (highest - weights.amax(-1, keepdim=True).log()).squeeze(-1)
        if bias is not None:
            empty = highest == -math.inf
            lse[:, :, rows].masked_fill_(empty.squeeze(-1), -math.inf)
            weights.masked_fill_(empty, 0)
        out[:, :, rows] = weights.to(value.dtype) @ value
    return out, lse


def _of_pairs(table: Tensor, same: Tensor, query_frame: Tensor, key_frame: Tensor) -> Tensor:
    """table [2, Fq, Fk] at each pair: [P, Nq, Nk], or [P, Nq, 1] broadcast against it where that says it all."""
    if table.shape[2] == 1:  # text tokens: one key frame
        different, equal = table[:, query_frame.long()]  # [P, Nq, 1]
        return torch.where(same, equal, different)
    return table[same.long(), query_frame[:, :, None].long(), key_frame[:, None, :].long()]


def _pull(logits: Tensor, strength: Tensor, same: Tensor, hidden: Tensor | None) -> None:
    """logits += strength * (extreme - logits) in place; the extremes are over keys that are not hidden."""
    high, low = logits, logits
    if hidden is not None:
        high, low = logits.masked_fill(hidden, -math.inf), logits.masked_fill(hidden, math.inf)
    high, low = high.amax(-1, keepdim=True), low.amin(-1, keepdim=True)
    if hidden is not None:
        high.masked_fill_(high == -math.inf, 0)
        low.masked_fill_(low == math.inf, 0)
    equal = same.to(logits.dtype)
    target = ((1 - equal) * low).addcmul_(equal, high)  # where(same, high, low), 16 times as fast on a CPU
    logits.lerp_(target, strength)


chunked_attention = declare(
    "chunked_attention",
    "(Tensor query, Tensor key, Tensor value, Tensor query_region, Tensor query_frame, Tensor key_region, "
    "Tensor key_frame, Tensor? strength, Tensor? bias, Tensor? row_strength, Tensor? key_weight, float scale)",
    _chunked_attention,
    ("CompositeExplicitAutograd",),
)
