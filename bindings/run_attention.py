"""Layout attention block by block: the queries of a block see the same keys, in runs of one bitset and class of frames.

The pairs of a run of queries and a run of keys have one strength A and one bias b. In chunks of a block's logits,

    z = (1 - a) * s + a * extreme + b,    a = row_strength * A, the extreme that of the row

is made in place, with one number per row or per key. Small blocks without strength are calls of torch's own attention.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .library import empty_outputs
from .products import ChunkedAttention, ChunkIndex
from .run_blocks import Block, ModulatedRows, Span, blocks_of
from .torch_attention import attend, takes_chunks


def attend_runs(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_order: Tensor,
    key_order: Tensor,
    query_runs: list[list[int]],
    key_runs: list[list[int]],
    strength: Tensor | None,
    bias: Tensor | None,
    row_strength: Tensor | None,
    scale: float,
    with_lse: bool,
) -> tuple[Tensor, Tensor]:
    """Layout attention over runs of both sides.

    Args:
        query, key, value: [B, H, Nq, D], and twice [B, H, Nk, D].
        query_order, key_order: int32 [P, Nq] and [P, Nk], P in (1, B).
        query_runs, key_runs: rows of item, start, stop, bitset, class of frames.
        strength, bias: float32 [2, query classes, key classes] on the CPU; None is 0, a bias of -inf excludes.
        row_strength: float32 [1 or B, Nq]; None is 1.
        scale: of the logits.
        with_lse: whether lse is wanted.

    Returns:
        out like the query, and lse float32 [B, H, Nq], undefined without `with_lse`.
    """
    if bias is None and strength is None:
        out, lse = attend(query, key, value, None, scale, with_lse)
        has_strides_of_query = out.stride() == torch.empty_like(query, device="meta").stride()
        return out if has_strides_of_query else torch.empty_like(query).copy_(out), lse.contiguous()
    out, lse = empty_outputs(query)
    items = len(query_order)
    strengths, biases = (None if table is None else table.tolist() for table in (strength, bias))
    for item in range(items):
        batch = slice(None) if items == 1 else slice(item, item + 1)
        order_q, order_k = query_order[item], key_order[item]
        ordered_q = query[batch].index_select(2, order_q)
        ordered_k, ordered_v = (x[batch].index_select(2, order_k) for x in (key, value))
        of_rows = None
        if row_strength is not None:
            of_rows = (row_strength[batch] if len(row_strength) > 1 else row_strength).index_select(1, order_q)
        ordered_out = torch.zeros_like(ordered_q)
        ordered_lse = query.new_full(ordered_q.shape[:3], -math.inf, dtype=torch.float32)
        queries_of_item, keys_of_item = ([run for run in runs if run[0] == item] for runs in (query_runs, key_runs))
        for block in blocks_of(queries_of_item, keys_of_item, strengths, biases):
            rows = slice(*block.queries)
            keys, values = (_take(x, block.stretches) for x in (ordered_k, ordered_v))
            sides = ordered_q[:, :, rows], keys, values
            results = ordered_out[:, :, rows], ordered_lse[:, :, rows]
            if block.strengths or takes_chunks(query.device, query.dtype, block.queries.length, *keys.shape[2:]):
                of_block = None if of_rows is None else of_rows[:, rows]
                _attend_chunks(*sides, block, of_block, scale, results[0], results[1] if with_lse else None)
            else:
                _attend_plain(*sides, block, scale, *results)
            del keys, values, sides  # their memory is free for the next
        out[batch].index_copy_(2, order_q.long(), ordered_out)
        lse[batch].index_copy_(2, order_q.long(), ordered_lse)
    return out, lse


def _take(ordered: Tensor, stretches: list[Span]) -> Tensor:
    """Stretches of [B, H, Nk, D]; a view where there is only one."""
    parts = [ordered[:, :, start:stop] for start, stop in stretches]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _attend_plain(
    query: Tensor, key: Tensor, value: Tensor, block: Block, scale: float, out: Tensor, lse: Tensor
) -> None:
    """A block without strengths, into `out` and `lse`; query, key and value are those of the block."""
    for (start, stop), bias in block.biases:
        rows = slice(start, stop)
        bias = None if bias is None else bias.to(query.device)
        out[:, :, rows], lse[:, :, rows] = attend(query[:, :, rows], key, value, bias, scale, True)


def _attend_chunks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block: Block,
    row_strength: Tensor | None,
    scale: float,
    out: Tensor,
    lse: Tensor | None,
) -> None:
    """A block, into `out` and `lse`; query, key, value and row_strength [1 or B, queries] are those of the block."""
    chunked = ChunkedAttention(query, key, value, scale, out, lse)
    strengths = [rows.to(query.device) for rows in block.strengths]
    biases = [(span, bias.to(query.device)) for span, bias in block.biases if bias is not None]

    def attend_to(chunks: list[ChunkIndex]) -> None:
        for chunk in chunks:
            items, _, rows = chunk
            logits = chunked.logits(chunk)
            if strengths:
                factor = None
                if row_strength is not None:
                    factor = (row_strength if len(row_strength) == 1 else row_strength[items])[:, None, rows, None]
                _modulate(logits, strengths, factor, rows)
            for queries, bias in biases:
                if inside := queries.within(rows):
                    logits[:, :, inside].add_(bias)
            chunked.finish(logits, chunk)
            del logits  # its memory is free for the next

    chunked.run(attend_to)


def _modulate(logits: Tensor, strengths: list[ModulatedRows], factor: Tensor | None, rows: slice) -> None:
    """Move the logits [B, H, rows, Nk] of a chunk toward their extremes, in place; factor [1 or B, 1, rows, 1]."""
    extremes = torch.cat([logits.amin(-1, keepdim=True), logits.amax(-1, keepdim=True)], -1)
    for modulated in strengths:
        inside = modulated.queries.within(rows)
        if inside is None:
            continue
        amount = modulated.amount if factor is None else factor[:, :, inside] * modulated.amount
        kept, added = 1 - amount, amount * extremes[:, :, inside].index_select(-1, modulated.same_region)
        for (start, stop), index in modulated.keys:
            column = slice(index, index + 1)
            logits[:, :, inside, start:stop].mul_(kept[..., column]).add_(added[..., column])
