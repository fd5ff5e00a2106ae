"""The pairs of tokens that a modulation does not exclude: the work that cannot be avoided."""

from __future__ import annotations

import torch
from torch import Tensor

from fame_accel.bench.inputs import AttentionInputs
from fame_accel.core.layout import TokenLayout
from fame_accel.core.modulation import Modulation


def active_pairs_of(inputs: AttentionInputs) -> int:
    """The active pairs of one head of all batch items."""
    return active_pairs(inputs.query_layout, inputs.key_layout, inputs.modulation, inputs.shape.items)


def active_pairs(
    query_layout: TokenLayout, key_layout: TokenLayout, modulation: Modulation | None, items: int = 1
) -> int:
    """Count the pairs of tokens that are not excluded.

    Args:
        query_layout: of the queries.
        key_layout: of the keys.
        modulation: its bias table excludes pairs by -inf; None excludes none.
        items: batch items, of which layouts have one or as many.

    Returns:
        The pairs of one head of all items, counted over distinct (bitset, frame).
    """
    if modulation is None or modulation.bias_table is None:
        return items * query_layout.num_tokens * key_layout.num_tokens
    layouts = max(query_layout.region.shape[0], key_layout.region.shape[0])
    total = 0
    for item in range(layouts):
        (bits_q, frame_q, count_q), (bits_k, frame_k, count_k) = (_kinds(x, item) for x in (query_layout, key_layout))
        same = ((bits_q[:, None] & bits_k[None, :]) != 0).long()
        active = modulation.bias_table[same, frame_q[:, None], frame_k[None, :]] > -torch.inf
        total += int((active * count_q[:, None] * count_k[None, :]).sum())
    return total * (items // layouts)


def _kinds(layout: TokenLayout, item: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bitset, frame and count of each distinct kind of token, on the CPU."""
    item %= layout.region.shape[0]
    tokens = torch.stack([layout.region[item], layout.frame[item]], 1).long().cpu()
    kinds, count = tokens.unique(dim=0, return_counts=True)
    return kinds[:, 0], kinds[:, 1], count
