"""Layout attention from torch matrix products in chunks: any tables, any factors, O(N) extra memory.

A chunk's logits stay in the cache for all that is done to them. With a the strength of a pair and `same` as 0 or 1,

    z = s + a * (1 - same) * (low - s) + a * same * (high - s) + bias

are passes in place, and what is per pair of tokens is worked out once for all heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .library import declare, empty_outputs
from .products import ChunkedAttention, Place


def _chunked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_region: Tensor,
    query_frame: Tensor,
    key_region: Tensor,
    key_frame: Tensor,
    strength: Tensor | None,
    bias: Tensor | None,
    row_strength: Tensor | None,
    key_weight: Tensor | None,
    scale: float,
    with_lse: bool,
) -> tuple[Tensor, Tensor]:
    """query [B, H, Nq, D], key, value [B, H, Nk, D]; query_region, query_frame [P, Nq], key_region, key_frame
    [P, Nk] int32; strength, bias [2, Fq, Fk] float32 (bias -inf excludes); row_strength [P, Nq], key_weight [P, Nk]
    float32; every P is 1 or B. Without with_lse, lse is NaN."""
    out, lse = empty_outputs(query)
    if not with_lse:
        lse.fill_(math.nan)
    chunked = ChunkedAttention(query, key, value, scale, out, lse if with_lse else None, pairwise=True)
    excludes = bias is not None and (bias.device.type != "cpu" or bool((bias == -math.inf).any()))

    @lru_cache(maxsize=1)
    def of_items(start: int, stop: int) -> tuple[_Sides, list[Tensor | None]]:
        """What the pairs of some items are made from."""
        items = slice(start, stop)
        sides = _Sides(*(_of(x, items) for x in (query_region, query_frame, key_region, key_frame)))
        tables = [None if table is None else sides.at_keys(table) for table in (strength, bias)]
        return sides, [*tables, *(_of(x, items) for x in (row_strength, key_weight))]

    def attend_to(places: list[Place]) -> None:
        items, _, rows = places[0]
        sides, factors = of_items(items.start, items.stop)
        pairs = _Pairs.of(sides, rows, *factors, excludes)
        for place in places:
            logits = chunked.logits(place)
            pairs.modulate(logits)
            chunked.finish(logits, place)
            del logits  # its memory is free for the next
        if pairs.empty is not None:
            out[items, :, rows].masked_fill_(pairs.empty, 0)
            if with_lse:
                lse[items, :, rows].masked_fill_(pairs.empty.squeeze(-1), -math.inf)

    chunked.each(attend_to)
    return out, lse


def _of(side: Tensor | None, items: slice) -> Tensor | None:
    """[1 or B, ...] of some items."""
    return side if side is None or len(side) == 1 else side[items]


@dataclass(frozen=True)
class _Sides:
    """Regions and frames of some items, int32 [P, N]."""

    query_region: Tensor
    query_frame: Tensor
    key_region: Tensor
    key_frame: Tensor

    def at_keys(self, table: Tensor) -> Tensor:
        """table [2, Fq, Fk] at every key: [S, P, Fq, Nk], Nk = 1 for one frame of text. S is 1 where `same` does not
        matter, else 2."""
        if table.device.type == "cpu" and torch.equal(table[0], table[1]):  # elsewhere the answer would be waited for
            table = table[:1]
        if table.shape[2] == 1:
            return table[:, None]
        return table[:, :, self.key_frame.long()].transpose(1, 2).contiguous()

    def at_pairs(self, at_keys: Tensor, rows: slice, same: Tensor) -> Tensor:
        """[P, rows, Nk or 1]"""
        frame = self.query_frame[:, rows].long()
        if at_keys.shape[1] == len(frame) == 1:  # whole rows are copied
            sides = [side[0].index_select(0, frame[0])[None] for side in at_keys]
        else:
            item = torch.arange(at_keys.shape[1], device=frame.device)[:, None] if at_keys.shape[1] > 1 else 0
            sides = [side[item, frame] for side in at_keys]
        return sides[0] if len(sides) == 1 else torch.where(same, sides[1], sides[0])


@dataclass(frozen=True)
class _Pairs:
    """Of some rows with all keys, [P, 1, rows, Nk] or broadcast to it; None where there is none.

    raised, lowered: the strength, of pairs of the same region and of the others, 0 elsewhere; hidden: with a strength,
    -inf for an excluded pair, else 0; empty: bool [P, 1, rows, 1], rows whose keys are all excluded, None if known
    to be none.
    """

    raised: Tensor | None
    lowered: Tensor | None
    bias: Tensor | None
    hidden: Tensor | None
    empty: Tensor | None

    @classmethod
    def of(
        cls,
        sides: _Sides,
        rows: slice,
        strength: Tensor | None,
        bias: Tensor | None,
        row_strength: Tensor | None,
        key_weight: Tensor | None,
        excludes: bool,
    ) -> _Pairs:
        raised = lowered = hidden = empty = None
        same = (sides.query_region[:, rows, None] & sides.key_region[:, None, :]) != 0
        if strength is not None:
            lowered = sides.at_pairs(strength, rows, same)[:, None]
            if row_strength is not None:
                lowered = lowered * row_strength[:, None, rows, None]
            if key_weight is not None:
                lowered = lowered * key_weight[:, None, None, :]
            raised = lowered * same[:, None]
            lowered = lowered - raised
        if bias is not None:
            bias = sides.at_pairs(bias, rows, same)[:, None]
            if excludes:
                shown = bias > -math.inf
                empty = ~shown.any(-1, keepdim=True)
                if empty.device.type == "cpu" and not bool(empty.any()):  # elsewhere the answer would be waited for
                    empty = None
                if strength is not None:
                    hidden = torch.zeros_like(bias).masked_fill_(~shown, -math.inf)
        return cls(raised, lowered, bias, hidden, empty)

    def modulate(self, logits: Tensor) -> None:
        """logits [B, H, rows, Nk] in place"""
        if self.raised is not None:
            if self.hidden is None:
                high, low = logits.amax(-1, keepdim=True), logits.amin(-1, keepdim=True)
            else:
                high = (logits + self.hidden).amax(-1, keepdim=True)
                low = (logits - self.hidden).amin(-1, keepdim=True)
                if self.empty is not None:
                    high.masked_fill_(self.empty, 0)
                    low.masked_fill_(self.empty, 0)
            logits.lerp_(low, self.lowered).lerp_(high, self.raised)  # of each pair one has a weight
        if self.bias is not None:
            logits += self.bias


chunked_attention = declare(
    "chunked_attention",
    "(Tensor query, Tensor key, Tensor value, Tensor query_region, Tensor query_frame, Tensor key_region, "
    "Tensor key_frame, Tensor? strength, Tensor? bias, Tensor? row_strength, Tensor? key_weight, float scale, "
    "bool with_lse)",
    _chunked_attention,
    ("CompositeExplicitAutograd",),
)
