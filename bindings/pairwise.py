"""Layout attention with the strength and bias of each pair of tokens: any tables and factors, O(N) extra memory.

With a the strength of a pair and `same` as 0 or 1,

    z = s + a * (1 - same) * (low - s) + a * same * (high - s) + bias

is made in place, in chunks whose logits stay in the cache. What belongs to pairs of tokens is made once for all heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .library import empty_outputs
from .products import ChunkedAttention, ChunkIndex


def attend_pairwise(
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
    """Layout attention from regions, frames and tables.

    Args:
        query, key, value: [B, H, Nq, D], and twice [B, H, Nk, D].
        query_region, query_frame, key_region, key_frame: int32 [P, Nq] and [P, Nk]; each P, here and below, is 1 or B.
        strength, bias: float32 [2, Fq, Fk]; None is 0, a bias of -inf excludes.
        row_strength, key_weight: float32 [P, Nq] and [P, Nk]; None is 1.
        scale: of the logits.
        with_lse: whether lse is wanted.

    Returns:
        out like the query, and lse float32 [B, H, Nq], NaN without `with_lse`.
    """
    out, lse = empty_outputs(query)
    if not with_lse:
        lse.fill_(math.nan)
    chunked = ChunkedAttention(query, key, value, scale, out, lse if with_lse else None, pairwise=True)
    excludes = bias is not None and (bias.device.type != "cpu" or bool((bias == -math.inf).any()))

    @lru_cache(maxsize=1)
    def of_items(start: int, stop: int) -> tuple[_Tokens, list[Tensor | None]]:
        items = slice(start, stop)
        tokens = _Tokens(*(_take(side, items) for side in (query_region, query_frame, key_region, key_frame)))
        tables = [None if table is None else tokens.at_keys(table) for table in (strength, bias)]
        factors = [None if factor is None else _take(factor, items) for factor in (row_strength, key_weight)]
        return tokens, [*tables, *factors]

    def attend_to(chunks: list[ChunkIndex]) -> None:
        items, _, rows = chunks[0]
        tokens, factors = of_items(items.start, items.stop)
        pairs = _PairTerms.of(tokens, rows, excludes, *factors)
        for chunk in chunks:
            logits = chunked.logits(chunk)
            pairs.modulate(logits)
            chunked.finish(logits, chunk)
            del logits  # its memory is free for the next
        if pairs.empty is not None:
            out[items, :, rows].masked_fill_(pairs.empty, 0)
            if with_lse:
                lse[items, :, rows].masked_fill_(pairs.empty.squeeze(-1), -math.inf)

    chunked.run(attend_to)
    return out, lse


def _take(side: Tensor, items: slice) -> Tensor:
    """[1 or B, ...] of some batch items."""
    return side if len(side) == 1 else side[items]


@dataclass(frozen=True)
class _Tokens:
    """Regions and frames of some items, int32 [P, N]."""

    query_region: Tensor
    query_frame: Tensor
    key_region: Tensor
    key_frame: Tensor

    def at_keys(self, table: Tensor) -> Tensor:
        """A table [2, Fq, Fk] at each key: [S, P, Fq, Nk], where S is 1 if regions do not matter, and Nk 1 for text."""
        if table.device.type == "cpu" and torch.equal(table[0], table[1]):  # elsewhere this would be waited for
            table = table[:1]
        if table.shape[2] == 1:
            return table[:, None]
        return table[:, :, self.key_frame.long()].transpose(1, 2).contiguous()

    def at_pairs(self, at_keys: Tensor, rows: slice, same: Tensor) -> Tensor:
        """What `at_keys` returned at pairs of some rows with all keys, [P, rows, Nk or 1]."""
        frame = self.query_frame[:, rows].long()
        if at_keys.shape[1] == len(frame) == 1:  # whole rows are copied
            sides = [side[0].index_select(0, frame[0])[None] for side in at_keys]
        else:
            item = torch.arange(at_keys.shape[1], device=frame.device)[:, None] if at_keys.shape[1] > 1 else 0
            sides = [side[item, frame] for side in at_keys]
        return sides[0] if len(sides) == 1 else torch.where(same, sides[1], sides[0])


@dataclass(frozen=True)
class _PairTerms:
    """What modulates the pairs of some rows with all keys, [P, 1, rows, Nk] or broadcast to it; None where it is 0.

    Attributes:
        toward_high, toward_low: the strength where regions are shared, and elsewhere; 0 at the other pairs.
        bias: B.
        hidden: where there is a strength, -inf for an excluded pair, otherwise 0.
        empty: bool [P, 1, rows, 1], rows whose keys are all excluded; None where there is certainly none.
    """

    toward_high: Tensor | None
    toward_low: Tensor | None
    bias: Tensor | None
    hidden: Tensor | None
    empty: Tensor | None

    @classmethod
    def of(
        cls,
        tokens: _Tokens,
        rows: slice,
        excludes: bool,
        strength: Tensor | None,
        bias: Tensor | None,
        row_strength: Tensor | None,
        key_weight: Tensor | None,
    ) -> _PairTerms:
        """The terms of some rows; strength and bias as `at_keys` returns them."""
        toward_high = toward_low = hidden = empty = None
        same = (tokens.query_region[:, rows, None] & tokens.key_region[:, None, :]) != 0
        if strength is not None:
            toward_low = tokens.at_pairs(strength, rows, same)[:, None]
            if row_strength is not None:
                toward_low = toward_low * row_strength[:, None, rows, None]
            if key_weight is not None:
                toward_low = toward_low * key_weight[:, None, None, :]
            toward_high = toward_low * same[:, None]
            toward_low = toward_low - toward_high
        if bias is not None:
            bias = tokens.at_pairs(bias, rows, same)[:, None]
            if excludes:
                shown = bias > -math.inf
                empty = ~shown.any(-1, keepdim=True)
                if empty.device.type == "cpu" and not bool(empty.any()):  # elsewhere this would be waited for
                    empty = None
                else:
                    # Such a row sees all keys until it is overwritten. With NaN in its weights, oneDNN's bfloat16
                    # product on AMX would spoil the row above: it reads past an odd number of keys.
                    shown, bias = shown | empty, bias.masked_fill(empty, 0)
                if strength is not None:
                    hidden = torch.zeros_like(bias).masked_fill_(~shown, -math.inf)
        return cls(toward_high, toward_low, bias, hidden, empty)

    def modulate(self, logits: Tensor) -> None:
        """Turn logits [B, H, rows, Nk] into z, in place."""
        if self.toward_high is not None and self.toward_low is not None:
            if self.hidden is None:
                high, low = logits.amax(-1, keepdim=True), logits.amin(-1, keepdim=True)
            else:
                high = (logits + self.hidden).amax(-1, keepdim=True)
                low = (logits - self.hidden).amin(-1, keepdim=True)
            logits.lerp_(low, self.toward_low).lerp_(high, self.toward_high)  # one of a pair's two weights is 0
        if self.bias is not None:
            logits += self.bias
