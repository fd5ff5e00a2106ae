"""Tensors and layouts of one case."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fame_accel.bench.cases import Operation, Shape
from fame_accel.core.layout import SpaceTimeLayout, TokenLayout
from fame_accel.core.modulation import Modulation
from fame_accel.core.presets import CROSS_FACTOR, SELF_FACTOR
from fame_accel.tools.parity_cases import text_layout, three_regions


@dataclass(frozen=True)
class Inputs:
    """What every provider is given; query [B, H, Nq, D], key and value [B, H, Nk, D] as the projections leave them."""

    shape: Shape
    operation: Operation
    query: Tensor
    key: Tensor
    value: Tensor
    query_layout: TokenLayout
    key_layout: TokenLayout
    modulation: Modulation | None
    row_strength: Tensor | None
    key_weight: Tensor | None

    @property
    def device(self) -> torch.device:
        return self.query.device

    @property
    def options(self) -> dict[str, object]:
        """Keyword arguments of layout_attention."""
        return dict(modulation=self.modulation, row_strength=self.row_strength, key_weight=self.key_weight)

    @cached_property
    def active_pairs(self) -> int:
        """Pairs of tokens that are not excluded, of one head of all batch items."""
        return active_pairs(self.query_layout, self.key_layout, self.modulation, self.shape.items)

    @property
    def active_fraction(self) -> float:
        return self.active_pairs / (self.shape.items * self.shape.queries * self.shape.keys)

    @property
    def useful_flop(self) -> int:
        """Both matrix products over the active pairs."""
        return 4 * self.active_pairs * self.shape.head_dim * self.shape.heads


def make_inputs(shape: Shape, operation: Operation, device: torch.device, dtype: torch.dtype) -> Inputs:
    """The same tensors each time, on one device."""
    generator = torch.Generator(device).manual_seed(0)
    layout = regions_of(shape).tokens(shape.height, shape.width, device)
    size = layout.size_regularization()
    if shape.motion:
        region, frame, size = (_by_pixel(x, shape) for x in (layout.region[0], layout.frame[0], size))
        layout = TokenLayout(region, frame, shape.frames)
    query, key, value = (
        torch.randn(
            shape.items, length, shape.heads, shape.head_dim, generator=generator, device=device, dtype=dtype
        ).transpose(1, 2)
        for length in (shape.queries, shape.keys, shape.keys)
    )
    key_layout = layout if shape.text is None else text_layout(shape.text, device)
    row_strength = key_weight = None
    if operation.pulled:
        row_strength = (CROSS_FACTOR if shape.text else SELF_FACTOR) * size
        key_weight = torch.rand(shape.text, generator=generator, device=device) if shape.text else None
    modulation = operation.modulation(shape.frames, key_layout.num_frames)
    return Inputs(shape, operation, query, key, value, layout, key_layout, modulation, row_strength, key_weight)


def regions_of(shape: Shape) -> SpaceTimeLayout:
    if shape.areas is None:
        return three_regions(shape.frames, shape.height, shape.width)
    ends = torch.tensor([0.0, *shape.areas], dtype=torch.float64).cumsum(0) / sum(shape.areas)
    column = ((torch.arange(shape.width) + 0.5) / shape.width).expand(shape.frames, shape.height, -1)
    return SpaceTimeLayout.from_masks((column >= ends[:-1, None, None, None]) & (column < ends[1:, None, None, None]))


def active_pairs(
    query_layout: TokenLayout, key_layout: TokenLayout, modulation: Modulation | None, items: int = 1
) -> int:
    """Pairs whose bias is above -inf in all of `items` batch items, counted over distinct (bitset, frame)."""
    if modulation is None or modulation.bias_table is None:
        return items * query_layout.num_tokens * key_layout.num_tokens
    kinds = max(query_layout.region.shape[0], key_layout.region.shape[0])
    found = 0
    for item in range(kinds):
        (bits_q, frame_q, count_q), (bits_k, frame_k, count_k) = (_kinds(x, item) for x in (query_layout, key_layout))
        same = ((bits_q[:, None] & bits_k[None, :]) != 0).long()
        seen = modulation.bias_table[same, frame_q[:, None], frame_k[None, :]] > -torch.inf
        found += int((seen * count_q[:, None] * count_k[None, :]).sum())
    return found * (items // kinds)


def _kinds(layout: TokenLayout, item: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bitset, frame and count of each distinct kind of token, on the CPU."""
    item %= layout.region.shape[0]
    tokens = torch.stack([layout.region[item], layout.frame[item]], 1).long().cpu()
    kinds, count = tokens.unique(dim=0, return_counts=True)
    return kinds[:, 0], kinds[:, 1], count


def _by_pixel(values: Tensor, shape: Shape) -> Tensor:
    """[frames * pixels] -> [batch * pixels, frames]"""
    return values.view(shape.frames, -1).T.repeat(shape.batch, 1).contiguous()
