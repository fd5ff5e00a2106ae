"""Layout attention from torch's own attention: one call per group of queries that share a run.

For queries of one region bitset and one class of frames, the keys they may see split into those of the same region
(P) and the others (N), and the bias is a vector over keys. Without modulation one call serves P and N together. With
a strength A that depends on `same` alone, each part is plain attention with its queries scaled by 1 - lambda * A, and

    out = merge(P with lse + lambda * A_same * high, N with lse + lambda * A_other * low)

by logsumexp. Keys are in run order, so P and N are a few contiguous stretches. Extremes come from logits in chunks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .library import declare, empty_outputs
from .torch_attention import Chunk, attend


@dataclass(frozen=True)
class _Keys:
    """Keys that a group sees: stretches of the ordered keys, and their biases [keys] or None."""

    stretches: list[tuple[int, int]]
    bias: Tensor | None

    def take(self, ordered: Tensor) -> Tensor:
        parts = [ordered[:, :, start:stop] for start, stop in self.stretches]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


class _Group:
    """The queries of one run, with the key runs and biases they may see."""

    def __init__(self, bits: int, frames: int, key_runs: list[list[int]], bias: list | None) -> None:
        self._runs = []
        for _, start, stop, key_bits, key_frames in key_runs:
            same = int(bits & key_bits != 0)
            value = 0.0 if bias is None else bias[same][frames][key_frames]
            if value > -math.inf:
                self._runs.append((same, start, stop, value))

    def keys(self, like: Tensor, wanted: tuple[int, ...] = (0, 1)) -> _Keys | None:
        """The keys whose `same` is among `wanted`, None where there are none; the bias on the device of `like`."""
        stretches: list[tuple[int, int]] = []
        runs = [run for run in self._runs if run[0] in wanted]
        for _, start, stop, _ in runs:
            if stretches and stretches[-1][1] == start:
                start = stretches.pop()[0]
            stretches.append((start, stop))
        bias = None
        if any(value for *_, value in runs):
            lengths = torch.tensor([stop - start for _, start, stop, _ in runs])
            bias = torch.tensor([value for *_, value in runs]).repeat_interleave(lengths).to(like.device)
        return _Keys(stretches, bias) if runs else None


def _grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_order: Tensor,
    key_order: Tensor,
    query_runs: Tensor,
    key_runs: Tensor,
    bias: Tensor | None,
    row_strength: Tensor | None,
    scale: float,
    strength_other: float,
    strength_same: float,
) -> tuple[Tensor, Tensor]:
    """Layout attention whose strength depends on `same` alone.

    query [B, H, Nq, D], key, value [B, H, Nk, D]; query_order [P, Nq], key_order [P, Nk] int32 with P in (1, B);
    query_runs, key_runs [runs, 5] int64 on the CPU: item, start, stop, bitset, frame class; bias [2, query classes,
    key classes] float32 on the CPU, -inf excludes; row_strength [1 or B, Nq] float32.
    """
    if bias is None and not (strength_other or strength_same):
        out, lse = attend(query, key, value, None, scale)
        return torch.empty_like(query).copy_(out), lse.contiguous()
    out, lse = empty_outputs(query)
    items = len(query_order)
    query_rows, key_rows = query_runs.tolist(), key_runs.tolist()
    values = None if bias is None else bias.tolist()
    strengths = (strength_other, strength_same)
    for item in range(items):
        batch = slice(None) if items == 1 else slice(item, item + 1)
        order_q, order_k = query_order[item], key_order[item]
        ordered_q = query[batch].index_select(2, order_q)
        ordered_k, ordered_v = (x[batch].index_select(2, order_k) for x in (key, value))
        row = None
        if any(strengths) and row_strength is not None:
            row = (row_strength[batch] if len(row_strength) > 1 else row_strength).index_select(1, order_q)
        ordered_out = torch.zeros_like(ordered_q)
        ordered_lse = torch.full(ordered_q.shape[:3], -math.inf, device=query.device)
        item_keys = [run for run in key_rows if run[0] == item]
        for _, start, stop, bits, frames in (run for run in query_rows if run[0] == item):
            group = _Group(bits, frames, item_keys, values)
            rows = slice(start, stop)
            whole = group.keys(query)
            if whole is None:
                continue
            part = ordered_q[:, :, rows]
            if any(strengths):
                factor = query.new_ones(1, dtype=torch.float32) if row is None else row[:, None, rows]
                result = _modulated(part, ordered_k, ordered_v, group, whole, scale, strengths, factor)
            else:
                result = attend(part, whole.take(ordered_k), whole.take(ordered_v), whole.bias, scale)
            ordered_out[:, :, rows], ordered_lse[:, :, rows] = result
        out[batch] = torch.empty_like(ordered_out).index_copy_(2, order_q.long(), ordered_out)
        lse[batch] = torch.empty_like(ordered_lse).index_copy_(2, order_q.long(), ordered_lse)
    return out, lse


def _modulated(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    group: _Group,
    whole: _Keys,
    scale: float,
    strengths: tuple[float, float],
    row_strength: Tensor,
) -> tuple[Tensor, Tensor]:
    """One group, as in the module's heading; row_strength broadcasts to [B, H, rows]."""
    parts = []
    for same, extreme in enumerate(_extremes(query, whole.take(key))):
        side = group.keys(query, (same,))
        if side is not None:
            pull = strengths[same] * row_strength
            scaled = (query * (1 - pull)[..., None]).to(query.dtype)
            out, lse = attend(scaled, side.take(key), side.take(value), side.bias, scale)
            parts.append((out, lse + pull * scale * extreme))
    if len(parts) == 1:
        return parts[0]
    (out_other, lse_other), (out_same, lse_same) = parts
    lse = torch.logaddexp(lse_other, lse_same)
    merged = torch.lerp(out_other.float(), out_same.float(), torch.sigmoid(lse_same - lse_other)[..., None])
    return merged.to(query.dtype), lse


def _extremes(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """min and max over keys of <q, k>, unscaled float32 [B, H, rows]."""
    low, high = (query.new_empty(query.shape[:3], dtype=torch.float32) for _ in range(2))
    keys = key.transpose(-1, -2).float()  # logits may pass float16's range
    chunk = Chunk.of(*query.shape[:3], key.shape[2])
    memory = keys.new_empty(chunk.pairs)  # one for all chunks
    for place in chunk.places(*query.shape[:3]):
        part = query[place].float()
        size = (*part.shape[:3], key.shape[2])
        logits = memory[: math.prod(size)].view(size)
        torch.matmul(part, keys[place[:2]], out=logits)
        low[place], high[place] = logits.amin(-1), logits.amax(-1)
    return low, high


grouped_attention = declare(
    "grouped_attention",
    "(Tensor query, Tensor key, Tensor value, Tensor query_order, Tensor key_order, Tensor query_runs, "
    "Tensor key_runs, Tensor? bias, Tensor? row_strength, float scale, float strength_other, float strength_same)",
    _grouped_attention,
    ("CompositeExplicitAutograd",),
)
