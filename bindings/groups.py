"""Runs of queries as blocks: what sees the same keys is attended to at once.

Keys are in run order, so what a run of queries, a group, sees is a few contiguous stretches, and its pull and bias are
constant over spans of keys. Groups side by side that see the same keys make a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor


class Span(NamedTuple):
    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    def within(self, rows: slice) -> slice | None:
        """The part of it in `rows`, counted from their first; None where there is none."""
        start, stop = max(self.start, rows.start), min(self.stop, rows.stop)
        return slice(start - rows.start, stop - rows.start) if start < stop else None


class Pull(NamedTuple):
    """Towards the highest logit of a row (high 1) or the lowest (0)."""

    high: int
    strength: float


@dataclass(frozen=True)
class Pulled:
    """What pulls the logits of `queries`: distinct pulls, as high int64 and strength float32, and spans of keys, each
    with the index of its own."""

    queries: Span
    high: Tensor
    strength: Tensor
    keys: list[tuple[Span, int]]

    def to(self, device: torch.device) -> Pulled:
        return replace(self, high=self.high.to(device), strength=self.strength.to(device))


@dataclass(frozen=True)
class Block:
    """queries and stretches of keys by their places in the two orders. Counted from the first of the block's own:
    pulls, where there is one, and for all queries the biases [keys] float32 on the CPU, None where zero."""

    queries: Span
    stretches: list[Span]
    pulls: list[Pulled]
    biases: list[tuple[Span, Tensor | None]]


@dataclass(frozen=True)
class _Group:
    """Queries, and the runs of keys that they see, with the pull and bias of each."""

    queries: Span
    keys: list[Span]
    pulls: list[Pull]
    biases: list[float]


def blocks_of(
    query_runs: Sequence[Sequence[int]], key_runs: Sequence[Sequence[int]], strength: list | None, bias: list | None
) -> list[Block]:
    """Of one item's runs (item, start, stop, bitset, frame class) and tables [2][query class][key class]; queries that
    see no key are in no block."""
    groups = [_group(run, key_runs, strength, bias) for run in query_runs]
    return [_block(list(alike)) for keys, alike in groupby(groups, lambda group: group.keys) if keys]


def _group(
    query_run: Sequence[int], key_runs: Sequence[Sequence[int]], strength: list | None, bias: list | None
) -> _Group:
    _, start, stop, bits, frames = query_run
    group = _Group(Span(start, stop), [], [], [])
    for _, first, last, key_bits, key_frames in key_runs:
        same = int(bits & key_bits != 0)
        amount, shift = (0.0 if x is None else x[same][frames][key_frames] for x in (strength, bias))
        if shift > -math.inf:
            group.keys.append(Span(first, last))
            group.pulls.append(Pull(same, amount))
            group.biases.append(shift)
    return group


def _block(groups: list[_Group]) -> Block:
    start = groups[0].queries.start
    lengths = [run.length for run in groups[0].keys]
    ends = torch.tensor(lengths).cumsum(0).tolist()
    places = [Span(end - length, end) for end, length in zip(ends, lengths, strict=True)]

    def alike(what: str) -> Iterable[tuple[Span, list]]:
        for same, members in groupby(groups, lambda group: getattr(group, what)):
            members = list(members)
            yield Span(members[0].queries.start - start, members[-1].queries.stop - start), same

    pulls = []
    for queries, of_runs in alike("pulls"):
        spans = [(span, pull) for span, pull in _joined(zip(places, of_runs, strict=True)) if pull.strength]
        distinct = sorted({pull for _, pull in spans})
        if spans:
            high = torch.tensor([pull.high for pull in distinct])
            amounts = torch.tensor([pull.strength for pull in distinct], dtype=torch.float32)
            pulls.append(Pulled(queries, high, amounts, [(span, distinct.index(pull)) for span, pull in spans]))
    biases = [(queries, _by_key(of_runs, lengths) if any(of_runs) else None) for queries, of_runs in alike("biases")]
    stretches = [stretch for stretch, _ in _joined((run, None) for run in groups[0].keys)]
    return Block(Span(start, groups[-1].queries.stop), stretches, pulls, biases)


def _by_key(of_runs: list[float], lengths: list[int]) -> Tensor:
    return torch.tensor(of_runs, dtype=torch.float32).repeat_interleave(torch.tensor(lengths))


def _joined(parts: Iterable[tuple[Span, Pull | None]]) -> list[tuple[Span, Pull | None]]:
    """Spans side by side with the same pull become one."""
    joined: list[tuple[Span, Pull | None]] = []
    for span, pull in parts:
        if joined and joined[-1][0].stop == span.start and joined[-1][1] == pull:
            span = Span(joined.pop()[0].start, span.stop)
        joined.append((span, pull))
    return joined
