"""Blocks of query runs that see the same keys, so that they can be attended to at once.

Keys are in the order of their runs. What a run of queries sees is therefore a few contiguous stretches of keys, and its
strength and bias are constant over spans of keys. Neighboring runs of queries that see the same keys make a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

Table = list[list[list[float]]]  # [2][query class][key class]


class Span(NamedTuple):
    """Positions from `start` up to `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """The number of positions."""
        return self.stop - self.start

    def within(self, rows: slice) -> slice | None:
        """The part that lies in `rows`, counted from their first; None where there is none."""
        start, stop = max(self.start, rows.start), min(self.stop, rows.stop)
        return slice(start - rows.start, stop - rows.start) if start < stop else None


class Strength(NamedTuple):
    """How far logits move toward an extreme of their row: the lowest logit (same_region 0) or the highest (1)."""

    same_region: int
    amount: float


@dataclass(frozen=True)
class ModulatedRows:
    """The strengths of some queries of a block.

    Attributes:
        queries: positions in the block.
        same_region, amount: int64 and float32 [strengths], the distinct strengths.
        keys: spans of the block's keys, each with the index of its strength; elsewhere it is 0.
    """

    queries: Span
    same_region: Tensor
    amount: Tensor
    keys: list[tuple[Span, int]]

    def to(self, device: torch.device) -> ModulatedRows:
        """The same on another device."""
        return replace(self, same_region=self.same_region.to(device), amount=self.amount.to(device))


@dataclass(frozen=True)
class Block:
    """Queries, and the keys that all of them see.

    Attributes:
        queries: positions in the order of queries.
        stretches: positions in the order of keys.
        strengths: where there are any.
        biases: for all queries, as positions in the block, the bias float32 [keys of the block] on the CPU; None where
        0.
    """

    queries: Span
    stretches: list[Span]
    strengths: list[ModulatedRows]
    biases: list[tuple[Span, Tensor | None]]


@dataclass(frozen=True)
class _QueryRun:
    """One run of queries, and the runs of keys that it sees, with the strength and bias of each."""

    queries: Span
    keys: list[Span]
    strengths: list[Strength]
    biases: list[float]


def blocks_of(
    query_runs: Sequence[Sequence[int]],
    key_runs: Sequence[Sequence[int]],
    strength: Table | None,
    bias: Table | None,
) -> list[Block]:
    """The blocks of one batch item; queries that see no key are in none.

    Args:
        query_runs, key_runs: rows of item, start, stop, bitset, class of frames.
        strength, bias: tables; None is 0 everywhere.
    """
    runs = [_query_run(run, key_runs, strength, bias) for run in query_runs]
    return [_block(list(alike)) for keys, alike in groupby(runs, lambda run: run.keys) if keys]


def _query_run(
    query_run: Sequence[int], key_runs: Sequence[Sequence[int]], strength: Table | None, bias: Table | None
) -> _QueryRun:
    _, start, stop, bits, frames = query_run
    run = _QueryRun(Span(start, stop), [], [], [])
    for _, first, last, key_bits, key_frames in key_runs:
        same = int(bits & key_bits != 0)
        amount, added = (0.0 if table is None else table[same][frames][key_frames] for table in (strength, bias))
        if added > -math.inf:
            run.keys.append(Span(first, last))
            run.strengths.append(Strength(same, amount))
            run.biases.append(added)
    return run


def _block(runs: list[_QueryRun]) -> Block:
    start = runs[0].queries.start
    lengths = [keys.length for keys in runs[0].keys]
    ends = torch.tensor(lengths, device="cpu").cumsum(0).tolist()
    positions = [Span(end - length, end) for end, length in zip(ends, lengths, strict=True)]

    def with_equal(attribute: str) -> Iterator[tuple[Span, list]]:
        """Neighboring runs of queries in which an attribute is equal, as positions in the block, and its value."""
        for value, alike in groupby(runs, lambda run: getattr(run, attribute)):
            members = list(alike)
            yield Span(members[0].queries.start - start, members[-1].queries.stop - start), value

    modulated = []
    for queries, strengths in with_equal("strengths"):
        spans = [(span, one) for span, one in _joined(zip(positions, strengths, strict=True)) if one.amount]
        distinct = sorted({one for _, one in spans})
        if spans:
            same_region = torch.tensor([one.same_region for one in distinct], device="cpu")
            amount = torch.tensor([one.amount for one in distinct], dtype=torch.float32, device="cpu")
            keys = [(span, distinct.index(one)) for span, one in spans]
            modulated.append(ModulatedRows(queries, same_region, amount, keys))
    biases = [(queries, _per_key(values, lengths) if any(values) else None) for queries, values in with_equal("biases")]
    stretches = [stretch for stretch, _ in _joined((keys, None) for keys in runs[0].keys)]
    return Block(Span(start, runs[-1].queries.stop), stretches, modulated, biases)


def _per_key(of_runs: list[float], lengths: list[int]) -> Tensor:
    values = torch.tensor(of_runs, dtype=torch.float32, device="cpu")
    return values.repeat_interleave(torch.tensor(lengths, device="cpu"))


def _joined(parts: Iterator[tuple[Span, Strength]] | Iterator[tuple[Span, None]]) -> list[tuple[Span, Strength]]:
    """Spans that touch and have the same strength become one."""
    joined: list = []
    for span, strength in parts:
        if joined and joined[-1][0].stop == span.start and joined[-1][1] == strength:
            span = Span(joined.pop()[0].start, span.stop)
        joined.append((span, strength))
    return joined
