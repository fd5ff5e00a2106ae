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
from .torch_attention import attend, row_chunks


@dataclass(frozen=True)
class _Side:
    """Keys one group sees, as stretches of the ordered keys, with their biases."""

    stretches: list[tuple[int, int]]
    bias: Tensor | None

    def take(self, ordered: Tensor) -> Tensor:
        parts = [ordered[:, :, start:stop] for start, stop in self.stretches]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


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
    key classes] float32 on the CPU, -inf excludes; row_strength [1 or P, Nq] float32.
    """
    out, lse = empty_outputs(query)
    if out.numel() == 0:
        return out, lse
    items = len(query_order)
    query_rows, key_rows = query_runs.tolist(), key_runs.tolist()
    for item in range(items):
        batch = slice(None) if items == 1 else slice(item, item + 1)
        order_q, order_k = query_order[item], key_order[item]
        ordered_q = query[batch].index_select(2, order_q)
        ordered_k, ordered_v = (x[batch].index_select(2, order_k) for x in (key, value))
        strength = None
        if strength_other or strength_same:
            strength = torch.ones(1, len(order_q), device=query.device)
            if row_strength is not None:
                lines = row_strength[batch] if len(row_strength) > 1 else row_strength
                strength = lines.index_select(1, order_q)
        ordered_out = torch.zeros_like(ordered_q)
        ordered_lse = torch.full(ordered_q.shape[:3], -math.inf, device=query.device)
        item_keys = [row for row in key_rows if row[0] == item]
        for _, start, stop, bits, frames in (row for row in query_rows if row[0] == item):
            sides = _sides(item_keys, bits, frames, bias, query.device)
            rows = slice(start, stop)
            if strength is None:
                result = _plain(ordered_q[:, :, rows], ordered_k, ordered_v, sides, scale)
            else:
                result = _modulated(
                    ordered_q[:, :, rows], ordered_k, ordered_v, sides, scale,
                    (strength_other, strength_same), strength[:, rows],
                )  # fmt: skip
            if result is not None:
                ordered_out[:, :, rows], ordered_lse[:, :, rows] = result
        out[batch] = out[batch].index_copy(2, order_q.long(), ordered_out)
        lse[batch] = lse[batch].index_copy(2, order_q.long(), ordered_lse)
    return out, lse


def _sides(
    key_rows: list[list[int]], bits: int, frames: int, bias: Tensor | None, device: torch.device
) -> tuple[_Side | None, _Side | None]:
    """The keys in different regions and in the same, None where there are none."""
    sides: list[_Side | None] = []
    for same in (0, 1):
        stretches: list[tuple[int, int]] = []
        values: list[float] = []
        lengths: list[int] = []
        for _, start, stop, key_bits, key_frames in key_rows:
            value = 0.0 if bias is None else float(bias[same, frames, key_frames])
            if bool(bits & key_bits) != bool(same) or value == -math.inf:
                continue
            values.append(value)
            lengths.append(stop - start)
            if stretches and stretches[-1][1] == start:
                stretches[-1] = (stretches[-1][0], stop)
            else:
                stretches.append((start, stop))
        vector = None
        if any(values):
            vector = torch.tensor(values).repeat_interleave(torch.tensor(lengths)).to(device)
        sides.append(_Side(stretches, vector) if stretches else None)
    return sides[0], sides[1]


def _plain(
    query: Tensor, key: Tensor, value: Tensor, sides: tuple[_Side | None, _Side | None], scale: float
) -> tuple[Tensor, Tensor] | None:
    whole = _union(*sides)
    return whole and attend(query, whole.take(key), whole.take(value), whole.bias, scale)


def _modulated(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sides: tuple[_Side | None, _Side | None],
    scale: float,
    strength_pair: tuple[float, float],
    row_strength: Tensor,
) -> tuple[Tensor, Tensor] | None:
    """row_strength [P, rows]; see the module's heading."""
    whole = _union(*sides)
    if whole is None:
        return None
    low, high = _extremes(query, whole.take(key))
    parts = []
    for side, strength, extreme in zip(sides, strength_pair, (low, high), strict=True):
        if side is not None:
            pull = (strength * row_strength)[:, None]
            scaled = (query * (1 - pull)[..., None]).to(query.dtype)
            out, lse = attend(scaled, side.take(key), side.take(value), side.bias, scale)
            parts.append((out, lse + pull * scale * extreme))
    if len(parts) == 1:
        return parts[0]
    (out_n, lse_n), (out_p, lse_p) = parts
    lse = torch.logaddexp(lse_n, lse_p)
    merged = out_n * torch.exp(lse_n - lse)[..., None] + out_p * torch.exp(lse_p - lse)[..., None]
    return merged.to(query.dtype), lse


def _union(other: _Side | None, same: _Side | None) -> _Side | None:
    """Both sides' keys in one, in order, adjacent stretches joined."""
    if other is None or same is None:
        return same if other is None else other
    pieces = []
    for side in (other, same):
        lengths = [stop - start for start, stop in side.stretches]
        bias = torch.zeros(sum(lengths)) if side.bias is None else side.bias
        pieces += zip(side.stretches, bias.split(lengths), strict=True)
    pieces.sort(key=lambda piece: piece[0])
    stretches: list[tuple[int, int]] = []
    for (start, stop), _ in pieces:
        if stretches and stretches[-1][1] == start:
            stretches[-1] = (stretches[-1][0], stop)
        else:
            stretches.append((start, stop))
    plain = other.bias is None and same.bias is None
    device = (other.bias if other.bias is not None else same.bias).device if not plain else None
    return _Side(stretches, None if plain else torch.cat([bias.to(device) for _, bias in pieces]))


def _extremes(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """min and max over keys of <q, k>, unscaled float32 [B, H, rows]."""
    low, high = (query.new_empty(query.shape[:3]) for _ in range(2))
    chunks = row_chunks(query.shape[0] * query.shape[1], query.shape[2], key.shape[2])
    for start in chunks:
        rows = slice(start, start + chunks.step)
        logits = query[:, :, rows] @ key.transpose(-1, -2)
        low[:, :, rows], high[:, :, rows] = logits.amin(-1), logits.amax(-1)
    return low.float(), high.float()


grouped_attention = declare(
    "grouped_attention",
    "(Tensor query, Tensor key, Tensor value, Tensor query_order, Tensor key_order, Tensor query_runs, "
    "Tensor key_runs, Tensor? bias, Tensor? row_strength, float scale, float strength_other, float strength_same)",
    _grouped_attention,
    ("CompositeExplicitAutograd",),
)
