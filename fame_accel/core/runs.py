"""Runs: tokens in an order in which those of one region bitset and one class of frames stand side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fame_accel.core.dynamic import dynamic_size
from fame_accel.core.layout import TokenLayout
from fame_accel.core.pytrees import register_pytree
from fame_accel.core.tables import Tables


@dataclass(frozen=True)
class Runs:
    """One side of an attention in order.

    Attributes:
        order: int32 [P, N] on the layout's device, the token at each position.
        table: int64 [runs, 5] on the CPU, with columns batch item, start, stop, bitset, class of frames; sorted by
            item, bitset, class.
    """

    order: Tensor
    table: Tensor


@register_pytree
@dataclass(frozen=True, eq=False)
class RunPlan:
    """Runs of both sides, for attention that takes one run of queries at a time.

    Attributes:
        query_order, key_order: int32 [P, Nq] and [P, Nk] on the layouts' device.
        query_runs, key_runs: as `Runs.table`, with at least two rows; rows of length 0 stand for nothing. All rows of
            `query_runs` are such where the runs are too many or too short to be taken one at a time.
        strength, bias: float32 [2, query classes, key classes] on the CPU; None where 0 everywhere.
    """

    query_order: Tensor
    key_order: Tensor
    query_runs: Tensor
    key_runs: Tensor
    strength: Tensor | None
    bias: Tensor | None


def find_runs(layout: TokenLayout, frame_class: Tensor, by_region: bool, items: int) -> Runs:
    """Order and runs of one side for `items` batch items; a layout without a batch serves them all."""
    region = layout.region if by_region else torch.zeros_like(layout.region)
    classes = frame_class.to(layout.device)[layout.frame.long()]
    key = region.long() * (int(frame_class.max()) + 1) + classes
    ordered, order = key.sort(dim=-1, stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    item, start = first.nonzero(as_tuple=True)
    last = torch.ones_like(first)
    last[:, :-1] = first[:, 1:]
    stop = last.nonzero(as_tuple=True)[1] + 1
    token = order[item, start]
    table = torch.stack([item, start, stop, region[item, token].long(), classes[item, token]], 1).cpu()
    if len(order) < items:
        table = table.repeat(items, 1)
        table[:, 0] = torch.arange(items, device="cpu").repeat_interleave(len(item))
    return Runs(order.to(torch.int32).expand(items, -1).contiguous(), table)


def runs_of_both(query_layout: TokenLayout, key_layout: TokenLayout, tables: Tables) -> tuple[Runs, Runs]:
    """Runs of queries and of keys, for the larger number of batch items."""
    items = max(len(query_layout.region), len(key_layout.region))
    query = find_runs(query_layout, tables.query_class, tables.by_region, items)
    key = find_runs(key_layout, tables.key_class, tables.by_region, items)
    return query, key


def run_plan(query_layout: TokenLayout, key_layout: TokenLayout, tables: Tables) -> RunPlan:
    """The runs of both sides; none of queries where taking them one at a time would not pay."""
    query, key = runs_of_both(query_layout, key_layout, tables)
    query_runs = query.table
    if not is_coarse(len(query_runs), query.order.numel(), tables.strength is not None, tables.strength_pair is None):
        query_runs = query_runs[:0]
    query_runs, key_runs = dynamic_size(query_runs), dynamic_size(key.table)
    return RunPlan(query.order, key.order, query_runs, key_runs, tables.strength, tables.bias)


def is_coarse(query_runs: int, tokens: int, modulated: bool, by_frame: bool) -> bool:
    """Whether runs of queries are few and long enough to be taken one at a time; thresholds measured on a CPU.

    Args:
        query_runs, tokens: over all batch items.
        modulated: whether logits move toward extremes, which takes several passes over a run's logits.
        by_frame: whether the strength depends on frames, which takes a pass per run of keys.
    """
    few, tokens_per_run = (16, 256 if by_frame else 64) if modulated else (64, 32)
    return query_runs <= few or tokens_per_run * query_runs <= tokens
