"""The tile plan: runs cut into pure tiles, and for each query tile the list of its key tiles.

A tile never crosses a run, so `same`, A and B are scalars for each pair of tiles. Planning costs a sort of the tokens
and (query runs x key tiles) list entries; nothing has size N x N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fame_accel.core.dynamic import dynamic_size
from fame_accel.core.layout import TokenLayout
from fame_accel.core.pytrees import constant, register_pytree
from fame_accel.core.runs import runs_of_both
from fame_accel.core.tables import Tables

MAX_PAIRS = 2**27  # list entries of one item: 2 GiB
MAX_PAIRS_OF_BATCH = 2**30  # the kernels count twice that in int32
_PAIRS_AT_ONCE = 2**20  # planned in one pass: about 100 MiB of temporary tensors


@register_pytree
@dataclass(frozen=True, eq=False)
class TilePlan:
    """Pure tiles and, for each query tile, its key tiles that are not excluded; on the layouts' device.

    Attributes:
        query_order, key_order: int32 [P, Nq] and [P, Nk], the token at each position.
        tiles: int32 [P, T, 7], those with the most pairs first: position, length, first pair, and where its pairs end
            that are full and in the same region, full, short and in the same region, short. Length 0 pads.
        pair_span: int32 [L, 2], position and length of a pair's key tile.
        pair_value: float32 [L, 2], A and B of a pair, B in base-2 units.
        block_q, block_k: the most tokens in a query tile and in a key tile.
        max_bias: no B is larger, in base-2 units.
        modulated: whether A is anything but 0.
        strength_pair: (A in different regions, A in the same region) where A depends on nothing else, otherwise None.
    """

    query_order: Tensor
    key_order: Tensor
    tiles: Tensor
    pair_span: Tensor
    pair_value: Tensor
    block_q: int = constant()
    block_k: int = constant()
    max_bias: float = constant()
    modulated: bool = constant()
    strength_pair: tuple[float, float] | None = constant()


def tile_plan(
    query_layout: TokenLayout, key_layout: TokenLayout, tables: Tables, block_q: int, block_k: int
) -> TilePlan:
    """The plan with query tiles of at most `block_q` tokens and key tiles of at most `block_k`.

    Raises:
        ValueError: the masks are too fine to plan tiles for.
    """
    query, key = runs_of_both(query_layout, key_layout, tables)
    items = len(query.order)
    query_tiles, key_tiles = _cut(query.table, block_q), _cut(key.table, block_k)
    runs = torch.bincount(query.table[:, 0], minlength=items)
    columns = torch.bincount(key.table[key_tiles[:, 2], 0], minlength=items)  # key tiles of each item
    _check_pairs(runs, torch.bincount(key.table[:, 0], minlength=items), columns)
    starts = _Starts(_before(runs), _before(columns))
    lists, spans, values, offset = [], [], [], 0
    for first, last in _item_ranges(runs * columns):
        ends, span, value = _pairs_of_runs(query.table, key.table, key_tiles, tables, block_k, starts, first, last)
        lists.append(ends + offset)
        spans.append(span)
        values.append(value)
        offset += len(span)
    if offset >= MAX_PAIRS_OF_BATCH:
        raise ValueError(f"query_layout and key_layout give {offset} pairs of tiles over the batch: split the batch")
    tiles = _tiles_of_items(query.table[:, 0], query_tiles, torch.cat(lists), items)
    device = query_layout.device
    return TilePlan(
        query.order,
        key.order,
        dynamic_size(tiles.to(torch.int32).to(device), dim=1),
        dynamic_size(torch.cat(spans).to(torch.int32).to(device)),
        dynamic_size(torch.cat(values).to(device)),
        block_q,
        block_k,
        tables.max_bias * math.log2(math.e),
        tables.strength is not None,
        tables.strength_pair,
    )


@dataclass(frozen=True)
class _Starts:
    """Of each batch item and past the last, int64 [items + 1]: its first query run, and its first key tile."""

    run: Tensor
    tile: Tensor


def _pairs_of_runs(
    query_runs: Tensor,
    key_runs: Tensor,
    key_tiles: Tensor,
    tables: Tables,
    block_k: int,
    starts: _Starts,
    first_item: int,
    last_item: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of the query runs of items first_item..last_item - 1 with the key tiles of the same item.

    Returns:
        For each run where its list starts and its four kinds end, [runs, 5], counted from 0; spans [L, 2]; values
        [L, 2].
    """
    first_run, last_run = int(starts.run[first_item]), int(starts.run[last_item])
    item = query_runs[first_run:last_run, 0]
    width = starts.tile[item + 1] - starts.tile[item]
    run = torch.arange(last_run - first_run, device="cpu").repeat_interleave(width)
    tile = torch.arange(len(run), device="cpu") + (starts.tile[item] - _before(width)[:-1])[run]
    run, key_run = run + first_run, key_tiles[tile, 2]
    same = ((query_runs[run, 3] & key_runs[key_run, 3]) != 0).long()
    index = (same, query_runs[run, 4], key_runs[key_run, 4])
    strength, bias = (
        torch.zeros(len(run), dtype=torch.float32, device="cpu") if table is None else table[index]
        for table in (tables.strength, tables.bias)
    )
    # full tiles before short ones, the same region before others
    kind = 4 * (run - first_run) + 2 * (key_tiles[tile, 1] < block_k).long() + 1 - same
    seen = (bias > -math.inf).nonzero().squeeze(1)
    kind, order = kind[seen].sort(stable=True)
    seen = seen[order]
    count = torch.bincount(kind, minlength=4 * (last_run - first_run)).view(-1, 4)
    ends = count.flatten().cumsum(0).view(-1, 4)
    values = torch.stack([strength[seen], bias[seen] * math.log2(math.e)], 1)
    return torch.cat([ends[:, :1] - count[:, :1], ends], 1), key_tiles[tile[seen], :2], values


def _tiles_of_items(item_of_run: Tensor, query_tiles: Tensor, lists: Tensor, items: int) -> Tensor:
    """Query tiles with the lists of their runs, [items, T, 7]."""
    count = (lists[:, 4] - lists[:, 0])[query_tiles[:, 2]]
    # the longest lists first, so that no long one starts when the others are done
    tiles = query_tiles[count.sort(descending=True, stable=True)[1]]
    item, order = item_of_run[tiles[:, 2]].sort(stable=True)
    tiles = tiles[order]
    number = torch.bincount(item, minlength=items)
    index = torch.arange(len(tiles), device="cpu") - _before(number)[item]
    padded = tiles.new_zeros(items, int(number.max()), 7)
    padded[item, index] = torch.cat([tiles[:, :2], lists[tiles[:, 2]]], 1)
    return padded


def _check_pairs(query_runs: Tensor, key_runs: Tensor, key_tiles: Tensor) -> None:
    """ValueError where one item's query runs and key tiles give too many pairs."""
    too_many = (query_runs * key_tiles > MAX_PAIRS).nonzero()
    if len(too_many):
        item = int(too_many[0])
        raise ValueError(
            f"query_layout and key_layout fall into {int(query_runs[item])} and {int(key_runs[item])} runs of one "
            "region set and frame, too many to plan tiles for: smooth or merge the masks, or use backend='sdpa'"
        )


def _item_ranges(pairs: Tensor) -> list[tuple[int, int]]:
    """Ranges of items, in order, that hold at most _PAIRS_AT_ONCE pairs each, or one item."""
    ranges, first, total = [], 0, 0
    for item, number in enumerate(pairs.tolist()):
        if item > first and total + number > _PAIRS_AT_ONCE:
            ranges.append((first, item))
            first, total = item, 0
        total += number
    return [*ranges, (first, len(pairs))]


def _cut(runs: Tensor, block: int) -> Tensor:
    """Tiles [T, 3] (start, length, run) of at most `block` tokens each."""
    length = runs[:, 2] - runs[:, 1]
    pieces = (length + block - 1) // block
    run = torch.arange(len(runs), device="cpu").repeat_interleave(pieces)
    piece = torch.arange(len(run), device="cpu") - _before(pieces)[run]
    start = runs[run, 1] + piece * block
    return torch.stack([start, (runs[run, 2] - start).clamp(max=block), run], 1)


def _before(counts: Tensor) -> Tensor:
    """How many come before each, and in all: int64 [len(counts) + 1]."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
