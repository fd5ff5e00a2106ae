"""Layout attention block by block: queries that see the same keys, in runs of one region bitset and class of frames.

In chunks of a block's logits, the pairs of a run of queries and one of keys have one strength A and one bias b, and

    z = (1 - a) * s + a * extreme + b,    a = row_strength * A, the extreme that of the row

is made in place, with one number a row or one a key. Without strength, small blocks are calls of torch's own attention
instead, a run each.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .groups import Block, Pulled, Span, blocks_of
from .library import declare, empty_outputs
from .products import ChunkedAttention, Place
from .torch_attention import attend, takes_chunks


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
        alike = out.stride() == torch.empty_like(query, device="meta").stride()
        return out if alike else torch.empty_like(query).copy_(out), lse.contiguous()
    out, lse = empty_outputs(query)
    items = len(query_order)
    query_rows, key_rows = query_runs.tolist(), key_runs.tolist()
    tables = [None if table is None else table.tolist() for table in (strength, bias)]
    for item in range(items):
        batch = slice(None) if items == 1 else slice(item, item + 1)
        order_q, order_k = query_order[item], key_order[item]
        ordered_q = query[batch].index_select(2, order_q)
        ordered_k, ordered_v = (x[batch].index_select(2, order_k) for x in (key, value))
        row = None
        if row_strength is not None:
            row = (row_strength[batch] if len(row_strength) > 1 else row_strength).index_select(1, order_q)
        ordered_out = torch.zeros_like(ordered_q)
        ordered_lse = query.new_full(ordered_q.shape[:3], -math.inf, dtype=torch.float32)
        own_queries, own_keys = ([run for run in runs if run[0] == item] for runs in (query_rows, key_rows))
        for block in blocks_of(own_queries, own_keys, *tables):
            rows = slice(*block.queries)
            keys, values = (_take(x, block.stretches) for x in (ordered_k, ordered_v))
            sides = ordered_q[:, :, rows], keys, values
            results = ordered_out[:, :, rows], ordered_lse[:, :, rows]
            if block.pulls or takes_chunks(query.device, query.dtype, block.queries.length, *keys.shape[2:]):
                own = None if row is None else row[:, rows]
                _attend_chunks(*sides, block, own, scale, results[0], results[1] if with_lse else None)
            else:
                _attend_runs(*sides, block, scale, *results)
            del keys, values, sides  # their memory is free for the next
        out[batch].index_copy_(2, order_q.long(), ordered_out)
        lse[batch].index_copy_(2, order_q.long(), ordered_lse)
    return out, lse


def _take(ordered: Tensor, stretches: list[Span]) -> Tensor:
    """Of [B, H, Nk, D], a view where it is one stretch."""
    parts = [ordered[:, :, start:stop] for start, stop in stretches]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _attend_runs(
    query: Tensor, key: Tensor, value: Tensor, block: Block, scale: float, out: Tensor, lse: Tensor
) -> None:
    """One block without pulls, into out and lse; query, key and value are its own."""
    for (start, stop), bias in block.biases:
        rows = slice(start, stop)
        bias = None if bias is None else bias.to(query.device)
        out[:, :, rows], lse[:, :, rows] = attend(query[:, :, rows], key, value, bias, scale, True)


def _attend_chunks(
    query: Tensor, key: Tensor, value: Tensor, block: Block, row: Tensor | None, scale: float, out: Tensor,
    lse: Tensor | None,
) -> None:  # fmt: skip
    """One block, into out and lse; query, key, value and row, its strength [1 or B, queries], are its own."""
    chunked = ChunkedAttention(query, key, value, scale, out, lse)
    pulls = [pulled.to(query.device) for pulled in block.pulls]
    biases = [(span, bias.to(query.device)) for span, bias in block.biases if bias is not None]

    def attend_to(places: list[Place]) -> None:
        for place in places:
            items, _, rows = place
            logits = chunked.logits(place)
            if pulls:
                strength = None if row is None else (row if len(row) == 1 else row[items])[:, None, rows, None]
                _pull(logits, pulls, strength, rows)
            for queries, bias in biases:
                if own := queries.within(rows):
                    logits[:, :, own].add_(bias)
            chunked.finish(logits, place)
            del logits  # its memory is free for the next

    chunked.each(attend_to)


def _pull(logits: Tensor, pulls: list[Pulled], row: Tensor | None, rows: slice) -> None:
    """logits [B, H, rows, Nk] of a chunk in place; row [1 or B, 1, rows, 1]."""
    extremes = torch.cat([logits.amin(-1, keepdim=True), logits.amax(-1, keepdim=True)], -1)
    for pulled in pulls:
        own = pulled.queries.within(rows)
        if own is None:
            continue
        amount = pulled.strength if row is None else row[:, :, own] * pulled.strength
        kept, added = 1 - amount, amount * extremes[:, :, own].index_select(-1, pulled.high)
        for (start, stop), index in pulled.keys:
            which = slice(index, index + 1)
            logits[:, :, own, start:stop].mul_(kept[..., which]).add_(added[..., which])


grouped_attention = declare(
    "grouped_attention",
    "(Tensor query, Tensor key, Tensor value, Tensor query_order, Tensor key_order, Tensor query_runs, "
    "Tensor key_runs, Tensor? strength, Tensor? bias, Tensor? row_strength, float scale, bool with_lse)",
    _grouped_attention,
    ("CompositeExplicitAutograd",),
)
