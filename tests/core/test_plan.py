"""The tile plan, taken apart: every pair of tokens once, with its own A and B, excluded pairs never."""

from __future__ import annotations

import math

import pytest
import torch
from cases import KINDS, MODULATIONS, layout, on_modulations
from torch import Tensor

from fame_accel import Modulation, TokenLayout
from fame_accel.core import runs, tiles
from fame_accel.core.runs import find_runs, run_plan
from fame_accel.core.tables import Tables, merge_frames
from fame_accel.core.tiles import TilePlan, tile_plan


def _plan(
    query: TokenLayout, key: TokenLayout, modulation: Modulation, blocks: tuple[int, int] = (32, 16)
) -> tuple[Tables, TilePlan]:
    tables = merge_frames(modulation, query.num_frames, key.num_frames)
    return tables, tile_plan(query, key, tables, *blocks)


def _tokens(side: TokenLayout, item: int) -> tuple[Tensor, Tensor]:
    """Bitsets and frames of one batch item."""
    return side.region[item % len(side.region)], side.frame[item % len(side.frame)].long()


def _dense(one: TokenLayout, other: TokenLayout, modulation: Modulation, item: int) -> tuple[Tensor, Tensor, Tensor]:
    """Whether regions are shared, A and B of every pair of one batch item, straight from the tables."""
    (bits_q, frame_q), (bits_k, frame_k) = (_tokens(side, item) for side in (one, other))
    same = (bits_q[:, None] & bits_k) != 0
    position = (same.long(), frame_q[:, None], frame_k)
    zeros = torch.zeros(same.shape)
    strength = zeros if modulation.strength_table is None else modulation.strength_table[position]
    bias = zeros if modulation.bias_table is None else modulation.bias_table[position]
    return same, strength, bias


def _rebuilt(plan: TilePlan, item: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A and B as the plan gives them, how often it visits each pair, and which it lists as in the same region."""
    order_q, order_k = plan.query_order[item].long(), plan.key_order[item].long()
    shape = (len(order_q), len(order_k))
    is_same = torch.zeros(shape, dtype=torch.bool)
    strength, bias, visits = torch.full(shape, math.nan), torch.full(shape, math.nan), torch.zeros(shape)
    for start, length, *ends in plan.tiles[item].tolist():
        rows = order_q[start : start + length]
        assert length <= plan.block_q and ends == sorted(ends)
        for pair in range(ends[0], ends[4]) if length else ():
            key_start, key_length = plan.pair_span[pair].tolist()
            kind = sum(pair >= end for end in ends[1:])  # full same, full other, short same, short other
            assert (key_length == plan.block_k) if kind < 2 else (0 < key_length < plan.block_k)
            is_same[rows[:, None], order_k[key_start : key_start + key_length]] = kind % 2 == 0
            square = (rows[:, None], order_k[key_start : key_start + key_length])
            strength[square], bias[square] = plan.pair_value[pair]
            visits[square] += 1
    return strength, bias / math.log2(math.e), visits, is_same


def _assert_plan_is_the_tables(query: TokenLayout, key: TokenLayout, modulation: Modulation, plan: TilePlan) -> None:
    for item in range(len(plan.query_order)):
        same, strength, bias = _dense(query, key, modulation, item)
        got_strength, got_bias, visits, got_same = _rebuilt(plan, item)
        seen = bias > -math.inf
        assert torch.equal(visits, seen.float())
        assert torch.equal(got_strength[seen], strength[seen])
        pulled = seen & (strength != 0)
        assert torch.equal(got_same[pulled], same[pulled])
        counts = [ends[4] - ends[0] for _, length, *ends in plan.tiles[item].tolist() if length]
        assert counts == sorted(counts, reverse=True)
        assert not seen.any() or plan.max_bias >= math.log2(math.e) * bias[seen].max().item() - 1e-5
        torch.testing.assert_close(got_bias[seen], bias[seen], rtol=1e-6, atol=1e-6)


def _assert_tiles_are_whole_and_pure(query: TokenLayout, tables: Tables, plan: TilePlan) -> None:
    for item, padded in enumerate(plan.tiles):
        order, whole = plan.query_order[item].long(), [tile for tile in padded.tolist() if tile[1]]
        tokens = torch.cat([order[start : start + length] for start, length, *_ in whole])
        assert torch.equal(tokens.sort()[0], torch.arange(query.num_tokens))
        regions, frames = _tokens(query, item)
        for start, length, *_ in whole:
            rows = order[start : start + length]
            assert not tables.by_region or len(regions[rows].unique()) == 1
            assert len(tables.query_class[frames[rows]].unique()) == 1


def _assert_good(query: TokenLayout, key: TokenLayout, modulation: Modulation, blocks: tuple[int, int]) -> None:
    tables, plan = _plan(query, key, modulation, blocks)
    _assert_plan_is_the_tables(query, key, modulation, plan)
    _assert_tiles_are_whole_and_pure(query, tables, plan)
    for tensor in (plan.query_order, plan.key_order, plan.tiles, plan.pair_span):
        assert tensor.dtype == torch.int32 and tensor.is_contiguous()
    assert plan.pair_value.dtype == torch.float32


@on_modulations
@pytest.mark.parametrize("kind", [*KINDS, "one_token"])
def test_presets(name: str, kind: str):
    modulation = MODULATIONS[name](3) or Modulation()
    _assert_good(layout(120, 3, kind), layout(90, 3, kind), modulation, (32, 16))


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 12))])
@pytest.mark.slow
def test_random_layouts_and_tables(seed: int):
    """Frames in any order, some of them alike, any bits, a third of the frame pairs excluded."""
    random = torch.Generator().manual_seed(seed)

    def draw(stop: int, *shape: int) -> Tensor:
        return torch.randint(stop, shape, generator=random)

    frames_q, frames_k = (1 + n for n in draw(5, 2).tolist())
    kept_q, kept_k = draw(frames_q, frames_q), draw(frames_k, frames_k)  # repeats make frames alike
    strength = (draw(4, 2, frames_q, frames_k) / 3)[:, kept_q][:, :, kept_k]
    bias = torch.randn(2, frames_q, frames_k, generator=random)[:, kept_q][:, :, kept_k]
    bias[(draw(3, 2, frames_q, frames_k) == 0)[:, kept_q][:, :, kept_k]] = -math.inf
    batches = [(None, None), (3, 3), (3, None), (None, 3)][seed % 4]
    sides = []
    for batch, frames in zip(batches, (frames_q, frames_k), strict=True):
        shape = (1 + draw(150, 1).item(),) if batch is None else (batch, 70)
        sides.append(TokenLayout(draw(6, *shape) * 2 ** draw(29, 1).item(), draw(frames, *shape), frames))
    for tables in ((strength, bias), (strength, None), (None, bias)):
        for blocks in ((32, 16), (1, 1), (8, 64)):
            _assert_good(*sides, Modulation(*tables), blocks)


def test_frames_alike_are_merged():
    frames = 5
    plain, grain = merge_frames(Modulation(), frames, frames), merge_frames(Modulation.videograin(5), 5, 5)
    assert plain.key_classes == grain.key_classes == 1 and not plain.by_region and grain.by_region
    assert plain.strength is None and plain.bias is None
    assert (plain.strength_pair, grain.strength_pair) == ((0.0, 0.0), (1.0, 1.0))
    first = merge_frames(Modulation.frames(frames, "first"), frames, frames)
    assert len(first.query_class.unique()) == 1 and first.key_classes == 2 and not first.by_region
    assert merge_frames(Modulation.fame(frames), frames, frames).key_classes == frames
    assert merge_frames(Modulation.fame(frames, decay_on="strength"), frames, frames).strength_pair is None
    by_same = Modulation(torch.tensor([0.25, 0.75])[:, None, None].expand(2, frames, frames))
    assert merge_frames(by_same, frames, frames).strength_pair == (0.25, 0.75)


def test_merged_frames_share_tiles():
    """VideoGrain's tables do not know time: one run a bitset, across frames."""
    one = TokenLayout(torch.ones(64, dtype=torch.int32), torch.arange(64) % 8, 8)
    assert _plan(one, one, Modulation.videograin(8))[1].tiles.shape == (1, 2, 7)
    assert _plan(one, one, Modulation.fame(8))[1].tiles.shape == (1, 8, 7)
    first = _plan(one, one, Modulation.frames(8, "first"))[1]
    assert first.pair_span[:, 1].tolist() == [8, 0]  # the second pads: sizes of 1 would be constants when compiled


def test_size_is_far_below_pairs_of_tokens():
    one = layout(40_000, 4)
    _, plan = _plan(one, one, Modulation.fame(4), (64, 64))
    assert sum(t.numel() for t in (plan.tiles, plan.pair_span, plan.pair_value)) < 50_000


def test_empty_sides():
    some, none = layout(20), layout(0)
    for name in MODULATIONS:
        modulation = MODULATIONS[name](2) or Modulation()
        assert (_plan(some, none, modulation)[1].tiles[..., 2:] == 0).all()
        assert not _plan(none, some, modulation)[1].tiles.any()


@on_modulations
def test_fine_runs_are_not_taken_one_at_a_time(name: str):
    """One call per run would cost more than the attention of all pixels."""
    pixels = layout(8, 8, batch=70)
    tables = merge_frames(MODULATIONS[name](8) or Modulation(), 8, 8)
    taken = run_plan(pixels, pixels, tables).query_runs
    runs_of_pixels = len(find_runs(pixels, tables.query_class, tables.by_region, 70).table)
    assert (int((taken[:, 2] > taken[:, 1]).sum()) > 0) == runs.is_coarse(
        runs_of_pixels, 560, tables.strength is not None, tables.strength_pair is None
    )
    assert runs_of_pixels == 70 or not taken.any()


@on_modulations
@pytest.mark.parametrize("batches", [(None, None), (2, None), (None, 2), (2, 2)], ids=str)
def test_runs_cover_each_side(name: str, batches: tuple[int | None, int | None], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs, "is_coarse", lambda *_: True)
    query, key = (layout(n, 3, batch=batch) for n, batch in zip((60, 80), batches, strict=True))
    tables = merge_frames(MODULATIONS[name](3) or Modulation(), 3, 3)
    plan = run_plan(query, key, tables)
    sides = (
        (query, plan.query_order, plan.query_runs, tables.query_class),
        (key, plan.key_order, plan.key_runs, tables.key_class),
    )
    for side, orders, table, classes in sides:
        assert table.shape[0] >= 2
        for item, order in enumerate(orders.long()):
            assert torch.equal(order.sort()[0], torch.arange(side.num_tokens))
            rows_of_item = [row[1:] for row in table.tolist() if row[0] == item and row[1] < row[2]]
            assert [row[0] for row in rows_of_item] == [0, *(row[1] for row in rows_of_item[:-1])]
            assert rows_of_item[-1][1] == side.num_tokens
            regions, frames = _tokens(side, item)
            for start, stop, bits, frame_class in rows_of_item:
                rows = order[start:stop]
                assert (classes[frames[rows]] == frame_class).all()
                assert not tables.by_region or (regions[rows] == bits).all()


def test_items_are_planned_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch):
    pixels, other = layout(9, 3, batch=7), layout(9, 3)
    tables = merge_frames(Modulation.fame(3), 3, 3)
    for query, key in ((pixels, pixels), (other, pixels), (pixels, other)):
        at_once = tile_plan(query, key, tables, 4, 4)
        with monkeypatch.context() as patch:
            patch.setattr(tiles, "_PAIRS_AT_ONCE", 40)
            in_parts = tile_plan(query, key, tables, 4, 4)
        for name in ("query_order", "key_order", "tiles", "pair_span", "pair_value"):
            assert torch.equal(getattr(at_once, name), getattr(in_parts, name)), name


def test_too_many_pairs_are_refused(monkeypatch: pytest.MonkeyPatch):
    one = layout(60, 3, "mixed")
    tables = merge_frames(Modulation.fame(3), 3, 3)
    with monkeypatch.context() as patch:
        patch.setattr(tiles, "MAX_PAIRS", 10)
        with pytest.raises(ValueError, match="query_layout and key_layout fall into .* smooth or merge the masks"):
            tile_plan(one, one, tables, 16, 16)
    monkeypatch.setattr(tiles, "MAX_PAIRS_OF_BATCH", 10)
    with pytest.raises(ValueError, match="pairs of tiles over the batch: split the batch"):
        tile_plan(one, one, tables, 16, 16)
