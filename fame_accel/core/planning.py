"""The plan of one attention: tokens ordered into runs, runs cut into pure tiles, tiles listed per query tile.

A run is a stretch of tokens, after ordering, with one region bitset and one class of frames; frames that a
modulation's tables do not tell apart share a class, so a modulation without time dependence has runs that span all
frames. A tile never crosses a run, hence every pair of tiles has scalar `same`, A and B. Cost: a sort of the tokens
and (query runs x key tiles) list entries; nothing of size N x N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fame_accel.core.layout import TokenLayout
from fame_accel.core.modulation import Modulation

MOST_PAIRS = 2**27  # list entries of one item: 2 GiB


@dataclass(frozen=True)
class Tables:
    """A modulation with the frames it does not tell apart merged into classes.

    query_class [Fq] and key_class [Fk] int64; strength and bias [2, query classes, key classes] float32 on the CPU,
    None where all zero; by_region: whether `same` matters at all; strength_pair: (A for different, A for same) where
    A depends on `same` alone, (0, 0) where it is zero, otherwise None.
    """

    query_class: Tensor
    key_class: Tensor
    strength: Tensor | None
    bias: Tensor | None
    by_region: bool
    strength_pair: tuple[float, float] | None
    key_classes: int


@dataclass(frozen=True)
class Runs:
    """One side in order: order [P, N] int32 token indices on the layout's device; table [runs, 5] int64 on the CPU
    with columns (batch item, start, stop, bitset, frame class), sorted by item, bitset, class."""

    order: Tensor
    table: Tensor


@dataclass(frozen=True)
class TilePlan:
    """Pure tiles and, per query tile, its key tiles that are not excluded; all on the layouts' device.

    query_order [P, Nq], key_order [P, Nk] int32: token index at each place of the order.
    tiles [P, T, 7] int32, the ones with the most pairs first: place, length, first pair, and the ends of its pairs
    that are full and in the same region, full, short and in the same region, short. Length 0 pads.
    pair_span [L, 2] int32: (place, length) of the key tile; pair_value [L, 2] float32: A, and B in base-2 units.
    most_bias: the largest B there.
    """

    query_order: Tensor
    key_order: Tensor
    tiles: Tensor
    pair_span: Tensor
    pair_value: Tensor
    block_q: int
    block_k: int
    most_bias: float


@dataclass(frozen=True)
class GroupPlan:
    """Runs of both sides, for a backend that takes one query run at a time."""

    query: Runs
    key: Runs


def merge_frames(modulation: Modulation, query_frames: int, key_frames: int) -> Tables:
    """`modulation` over classes of frames that its tables treat alike."""
    tables = torch.zeros(4, query_frames, key_frames, dtype=torch.float32)
    if modulation.strength_table is not None:
        tables[:2] = modulation.strength_table
    if modulation.bias_table is not None:
        tables[2:] = modulation.bias_table
    query_class = tables.transpose(0, 1).flatten(1).unique(dim=0, return_inverse=True)[1]
    key_class = tables.permute(2, 0, 1).flatten(1).unique(dim=0, return_inverse=True)[1]
    merged = tables.new_empty(4, int(query_class.max()) + 1, int(key_class.max()) + 1)
    merged[:, query_class[:, None], key_class[None, :]] = tables
    strength = merged[:2] if bool(merged[:2].any()) else None
    bias = merged[2:] if bool(merged[2:].any()) else None
    by_region = strength is not None or (bias is not None and not torch.equal(bias[0], bias[1]))
    pair: tuple[float, float] | None = (0.0, 0.0)
    if strength is not None:
        flat = strength.flatten(1)
        pair = (flat[0, 0].item(), flat[1, 0].item()) if bool((flat == flat[:, :1]).all()) else None
    return Tables(query_class, key_class, strength, bias, by_region, pair, merged.shape[2])


def find_runs(layout: TokenLayout, frame_class: Tensor, by_region: bool, items: int) -> Runs:
    """Order and runs of one side for `items` batch items (a shared layout repeats where items > 1)."""
    region = layout.region if by_region else torch.zeros_like(layout.region)
    classes = frame_class.to(layout.device)[layout.frame.long()]
    key = region.long() * (int(frame_class.max()) + 1) + classes
    ordered, order = key.sort(dim=-1, stable=True)
    order = order.to(torch.int32).expand(items, -1).contiguous()
    rows = []
    for item, line in enumerate(ordered.expand(items, -1)):
        _, count = line.unique_consecutive(return_counts=True)
        stop = count.cumsum(0)
        start = stop - count
        first = order[item].long()[start]
        bits, frames = region[item % len(region)][first], classes[item % len(classes)][first]
        rows.append(torch.stack([torch.full_like(start, item), start, stop, bits.long(), frames], 1))
    return Runs(order, torch.cat(rows).cpu())


def group_plan(query_layout: TokenLayout, key_layout: TokenLayout, tables: Tables) -> GroupPlan | None:
    """None where the runs of queries are too many or too short for it to pay."""
    items, tokens = _items(query_layout, key_layout), query_layout.num_tokens
    modulated, by_frame = tables.strength is not None, tables.strength_pair is None
    if not is_coarse(items, items * tokens, modulated, by_frame):  # each item has a run at least
        return None
    query, key = _both_runs(query_layout, key_layout, tables)
    return GroupPlan(query, key) if is_coarse(len(query.table), items * tokens, modulated, by_frame) else None


def is_coarse(query_runs: int, tokens: int, modulated: bool, by_frame: bool) -> bool:
    """Whether runs of queries are few and long enough to be attended to one by one: modulated, in several passes; by
    frame, also run by run of keys."""
    few, worthwhile = (16, 256 if by_frame else 64) if modulated else (64, 32)  # tokens; measured on a CPU
    return query_runs <= few or worthwhile * query_runs <= tokens


def tile_plan(
    query_layout: TokenLayout, key_layout: TokenLayout, tables: Tables, block_q: int, block_k: int
) -> TilePlan:
    """Plan with query tiles of at most `block_q` tokens and key tiles of at most `block_k`."""
    query, key = _both_runs(query_layout, key_layout, tables)
    parts = [_item_plan(query.table, key.table, item, tables, block_q, block_k) for item in range(len(query.order))]
    offset, tiles = 0, []
    for part_tiles, spans, _ in parts:
        tiles.append(part_tiles + torch.tensor([0, 0, *[offset] * 5]))
        offset += len(spans)
    if offset >= 2**30:  # the kernels count twice that in int32
        raise ValueError(f"query_layout and key_layout give {offset} pairs of tiles over the batch: split the batch")
    device = query_layout.device
    values = torch.cat([values for _, _, values in parts])
    return TilePlan(
        query.order,
        key.order,
        torch.nn.utils.rnn.pad_sequence(tiles, batch_first=True).to(torch.int32).to(device),
        torch.cat([spans for _, spans, _ in parts]).to(torch.int32).to(device),
        values.to(device),
        block_q,
        block_k,
        values[:, 1].max().item() if len(values) else 0.0,
    )


def _items(query_layout: TokenLayout, key_layout: TokenLayout) -> int:
    return max(query_layout.region.shape[0], key_layout.region.shape[0])


def _both_runs(query_layout: TokenLayout, key_layout: TokenLayout, tables: Tables) -> tuple[Runs, Runs]:
    items = _items(query_layout, key_layout)
    query = find_runs(query_layout, tables.query_class, tables.by_region, items)
    key = find_runs(key_layout, tables.key_class, tables.by_region, items)
    return query, key


def _item_plan(
    query_runs: Tensor, key_runs: Tensor, item: int, tables: Tables, block_q: int, block_k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Tiles [T, 7], pair spans [L, 2] and pair values [L, 2] of one batch item, pairs counted from 0."""
    query_runs = query_runs[query_runs[:, 0] == item]
    key_runs = key_runs[key_runs[:, 0] == item]
    query_tiles, key_tiles = _cut(query_runs, block_q), _cut(key_runs, block_k)
    if len(query_runs) * len(key_tiles) > MOST_PAIRS:
        raise ValueError(
            f"query_layout and key_layout fall into {len(query_runs)} and {len(key_runs)} runs of one region set and "
            "frame, too many to plan tiles for: smooth or merge the masks, or use backend='sdpa'"
        )
    bits_q, bits_k = query_runs[:, None, 3], key_runs[None, :, 3]
    same = ((bits_q & bits_k) != 0).long()
    place = (same, query_runs[:, None, 4], key_runs[None, :, 4])
    strength = torch.zeros(same.shape, dtype=torch.float32) if tables.strength is None else tables.strength[place]
    bias = torch.zeros(same.shape, dtype=torch.float32) if tables.bias is None else tables.bias[place]
    run, tile = (bias > -math.inf)[:, key_tiles[:, 2]].nonzero(as_tuple=True)
    key_run = key_tiles[tile, 2]
    # by query run: full before short, the same region before others
    kind = 2 * (key_tiles[tile, 1] < block_k).long() + 1 - same[run, key_run]
    kind, order = (4 * run + kind).sort(stable=True)
    run, tile, key_run = run[order], tile[order], key_run[order]
    count = torch.bincount(kind, minlength=4 * len(query_runs)).view(-1, 4)
    ends = count.flatten().cumsum(0).view(-1, 4)
    lists = torch.cat([ends[:, :1] - count[:, :1], ends], 1)
    values = torch.stack([strength[run, key_run], bias[run, key_run] * math.log2(math.e)], 1)
    # the longest lists first, so that no long one starts when the others are done
    query_tiles = query_tiles[count.sum(1)[query_tiles[:, 2]].sort(descending=True, stable=True)[1]]
    return torch.cat([query_tiles[:, :2], lists[query_tiles[:, 2]]], 1), key_tiles[tile, :2], values


def _cut(runs: Tensor, block: int) -> Tensor:
    """Tiles [T, 3] (start, length, run) of at most `block` tokens each."""
    length = runs[:, 2] - runs[:, 1]
    pieces = (length + block - 1) // block
    run = torch.arange(len(runs)).repeat_interleave(pieces)
    piece = torch.arange(len(run)) - (pieces.cumsum(0) - pieces)[run]
    start = runs[run, 1] + piece * block
    return torch.stack([start, torch.minimum(runs[run, 2] - start, torch.tensor(block)), run], 1)
