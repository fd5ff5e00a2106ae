"""Blocks of runs say of every pair of tokens what the tables say."""

from __future__ import annotations

import math

import pytest
import torch
from cases import FRAMES, MODULATIONS, layout

from fame_accel.bindings.run_blocks import Span, blocks_of
from fame_accel.core.runs import find_runs
from fame_accel.core.tables import merge_frames


@pytest.mark.parametrize("name", [name for name in MODULATIONS if name != "plain"])
@pytest.mark.parametrize("kind", ["mixed", "overlapping", "no_region"])
def test_blocks_cover_every_pair(name: str, kind: str):
    tables = merge_frames(MODULATIONS[name](FRAMES), FRAMES, FRAMES)
    queries, keys = layout(50, kind=kind), layout(70, kind=kind)
    sides = [
        find_runs(side, classes, tables.by_region, 1).table.tolist()
        for side, classes in ((queries, tables.query_class), (keys, tables.key_class))
    ]
    of_query, of_key = ([(run[3], run[4]) for run in side for _ in range(run[2] - run[1])] for side in sides)

    def at_pairs(table: torch.Tensor | None) -> torch.Tensor:
        if table is None:
            return torch.zeros(50, 70)
        return torch.tensor(
            [[table[int(bits & own != 0), frame, other] for own, other in of_key] for bits, frame in of_query]
        )

    strength, bias = at_pairs(tables.strength), at_pairs(tables.bias)
    same = torch.tensor([[bits & own != 0 for own, _ in of_key] for bits, _ in of_query])
    got_strength, got_bias = torch.zeros(50, 70), torch.full((50, 70), -math.inf)
    lists = [None if table is None else table.tolist() for table in (tables.strength, tables.bias)]
    stop, before = 0, None
    for block in blocks_of(*sides, *lists):
        assert block.queries.start >= stop and block.stretches != before  # in order, and no two could be one
        stop, before = block.queries.stop, block.stretches
        assert all(one.stop < other.start for one, other in zip(block.stretches, block.stretches[1:], strict=False))
        seen = torch.cat([torch.arange(*stretch) for stretch in block.stretches])
        rows = torch.arange(*block.queries)
        for span, values in block.biases:
            got_bias[rows[slice(*span)][:, None], seen] = 0.0 if values is None else values
        for modulated in block.strengths:
            own = rows[slice(*modulated.queries)][:, None]
            for span, index in modulated.keys:
                pairs = own, seen[slice(*span)]
                assert bool((same[pairs] == bool(modulated.same_region[index])).all())
                got_strength[pairs] = modulated.amount[index]
    assert torch.equal(got_bias, bias)
    assert torch.equal(got_strength, strength.masked_fill(bias == -math.inf, 0))


def test_span_within():
    span = Span(3, 7)
    assert span.length == 4
    assert span.within(slice(0, 10)) == slice(3, 7) and span.within(slice(5, 6)) == slice(0, 1)
    assert span.within(slice(0, 3)) is None and span.within(slice(7, 9)) is None
