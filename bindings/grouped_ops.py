"""Layout attention run by run: queries of one region bitset and one class of frames share a group.

A group sees every run of keys with one strength A and one bias b. Without strength it is one call of torch's own
attention, its bias a vector over the keys. With strength, logits are made in chunks that stay in the cache, where the
pairs of a run are

    z = (1 - a) * s + a * extreme + b,    a = row_strength * A, the extreme that of the row

passes in place, with one number a row or one a key. Keys are in run order, so what a group sees is a few contiguous
stretches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .library import declare, empty_outputs
from .products import ChunkedAttention
from .torch_attention import attend


@dataclass(frozen=True)
class _KeyRun:
    """Keys side by side, of one bias and one pull to a group: (same, strength)."""

    start: int
    stop: int
    pull: tuple[int, float]
    bias: float


@dataclass(frozen=True)
class _Seen:
    """Key runs of one group, those that it does not see left out, by their places in the ordered keys."""

    runs: list[_KeyRun]

    @classmethod
    def of(cls, bits: int, frames: int, key_runs: list[list[int]], strength: list | None, bias: list | None) -> _Seen:
        runs = []
        for _, start, stop, key_bits, key_frames in key_runs:
            same = int(bits & key_bits != 0)
            pull, shift = (0.0 if x is None else x[same][frames][key_frames] for x in (strength, bias))
            if shift > -math.inf:
                runs.append(_KeyRun(start, stop, (same, pull), shift))
        return cls(runs)

    def stretches(self) -> list[tuple[int, int]]:
        """Where runs lie side by side, the start of the first and the stop of the last."""
        found: list[tuple[int, int]] = []
        for run in self.runs:
            start = found.pop()[0] if found and found[-1][1] == run.start else run.start
            found.append((start, run.stop))
        return found

    def bias(self, device: torch.device) -> Tensor | None:
        """[keys] float32, None where zero."""
        if not any(run.bias for run in self.runs):
            return None
        values = torch.tensor([run.bias for run in self.runs], dtype=torch.float32)
        return values.repeat_interleave(torch.tensor([run.stop - run.start for run in self.runs])).to(device)

    def pulled(self) -> list[tuple[tuple[int, float], slice]]:
        """Every pull, and where its keys are among those taken."""
        places: list[tuple[tuple[int, float], slice]] = []
        stop = 0
        for run in self.runs:
            start, stop = stop, stop + run.stop - run.start
            if places and places[-1][0] == run.pull:
                start = places.pop()[1].start
            places.append((run.pull, slice(start, stop)))
        return [(pull, place) for pull, place in places if pull[1]]


def _grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_order: Tensor,
    key_order: Tensor,
    query_runs: Tensor,
    key_runs: Tensor,
    strength: Tensor | None,
    bias: Tensor | None,
    row_strength: Tensor | None,
    scale: float,
    with_lse: bool,
) -> tuple[Tensor, Tensor]:
    """query [B, H, Nq, D], key, value [B, H, Nk, D]; query_order [P, Nq], key_order [P, Nk] int32 with P in (1, B);
    query_runs, key_runs [runs, 5] int64 on the CPU: item, start, stop, bitset, frame class; strength, bias [2, query
    classes, key classes] float32 on the CPU, a bias of -inf excludes; row_strength [1 or B, Nq] float32. Without
    with_lse, lse may be NaN."""
    if bias is None and strength is None:
        out, lse = attend(query, key, value, None, scale, with_lse)
        return torch.empty_like(query).copy_(out), lse.contiguous()
    out, lse = empty_outputs(query)
    items = len(query_order)
    query_rows, key_rows = query_runs.tolist(), key_runs.tolist()
    tables = [None if table is None else table.tolist() for table in (strength, bias)]
    for item in range(items):
        batch = slice(None) if items == 1 else slice(item, item + 1)
        order_q, order_k = query_order[item], key_order[item]
        ordered_q = query[batch].index_select(2, order_q)
        ordered_k, ordered_v = (x[batch].index_select(2, order_k) for x in (key, value))
        row = query.new_ones(1, query.shape[2], dtype=torch.float32)
        if row_strength is not None:
            row = (row_strength[batch] if len(row_strength) > 1 else row_strength).index_select(1, order_q)
        ordered_out = torch.zeros_like(ordered_q)
        ordered_lse = query.new_full(ordered_q.shape[:3], -math.inf, dtype=torch.float32)
        item_keys = [run for run in key_rows if run[0] == item]
        taken: list[tuple[int, int]] = []
        for _, start, stop, bits, frames in (run for run in query_rows if run[0] == item):
            seen = _Seen.of(bits, frames, item_keys, *tables)
            if not seen.runs:
                continue
            rows = slice(start, stop)
            if seen.stretches() != taken:  # groups of one bitset follow each other, and mostly see the same keys
                taken = seen.stretches()
                keys = values = None  # the memory of the ones before is free for these
                keys, values = (_take(x, taken) for x in (ordered_k, ordered_v))
            part = ordered_q[:, :, rows]
            if strength is None:
                result = attend(part, keys, values, seen.bias(query.device), scale, with_lse)
            else:
                result = _modulated(part, keys, values, seen, row[:, rows], scale, with_lse)
            ordered_out[:, :, rows], ordered_lse[:, :, rows] = result
        out[batch].index_copy_(2, order_q.long(), ordered_out)
        lse[batch].index_copy_(2, order_q.long(), ordered_lse)
    return out, lse


def _take(ordered: Tensor, stretches: list[tuple[int, int]]) -> Tensor:
    """Of [B, H, Nk, D], a view where it is one stretch."""
    parts = [ordered[:, :, start:stop] for start, stop in stretches]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _modulated(
    query: Tensor, key: Tensor, value: Tensor, seen: _Seen, row_strength: Tensor, scale: float, with_lse: bool
) -> tuple[Tensor, Tensor]:
    """One group, as in the module's heading; key and value are those it sees, row_strength [1 or B, rows]."""
    chunked = ChunkedAttention(query, key, value, scale, with_lse)
    bias, pulled = seen.bias(query.device), seen.pulled()
    for place in chunked.places():
        items, _, rows = place
        logits = chunked.logits(place)
        extremes = logits.amin(-1, keepdim=True), logits.amax(-1, keepdim=True)
        row = (row_strength if len(row_strength) == 1 else row_strength[items])[:, None, rows, None]
        moves = {pull: (1 - pull[1] * row, pull[1] * row * extremes[pull[0]]) for pull in dict(pulled)}
        for pull, stretch in pulled:
            kept, added = moves[pull]
            logits[..., stretch].mul_(kept).add_(added)
        if bias is not None:
            logits.add_(bias)
        chunked.finish(logits, place)
        del logits  # its memory is free for the next
    return chunked.out, chunked.lse


grouped_attention = declare(
    "grouped_attention",
    "(Tensor query, Tensor key, Tensor value, Tensor query_order, Tensor key_order, Tensor query_runs, "
    "Tensor key_runs, Tensor? strength, Tensor? bias, Tensor? row_strength, float scale, bool with_lse)",
    _grouped_attention,
    ("CompositeExplicitAutograd",),
)
