"""The tensors and layouts that every provider is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fame_accel.bench.workload import AttentionOperation, LayerShape
from fame_accel.core.layout import SpaceTimeLayout, TokenLayout
from fame_accel.core.modulation import Modulation
from fame_accel.core.presets import CROSS_FACTOR, SELF_FACTOR
from fame_accel.tools.parity_cases import text_layout, three_regions


@dataclass(frozen=True)
class AttentionInputs:
    """The arguments of one attention call.

    query [B, H, Nq, D], key and value [B, H, Nk, D] have the strides that projections leave.
    """

    shape: LayerShape
    operation: AttentionOperation
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
        """Where the tensors are."""
        return self.query.device

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of `layout_attention`."""
        return dict(modulation=self.modulation, row_strength=self.row_strength, key_weight=self.key_weight)


def make_inputs(
    shape: LayerShape, operation: AttentionOperation, device: torch.device, dtype: torch.dtype
) -> AttentionInputs:
    """Make random inputs, the same at each call on one device."""
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
    if operation.modulates:
        row_strength = (CROSS_FACTOR if shape.text else SELF_FACTOR) * size
        key_weight = torch.rand(shape.text, generator=generator, device=device) if shape.text else None
    modulation = operation.modulation(shape.frames, key_layout.num_frames)
    return AttentionInputs(
        shape, operation, query, key, value, layout, key_layout, modulation, row_strength, key_weight
    )


def regions_of(shape: LayerShape) -> SpaceTimeLayout:
    """The regions of a shape: its stripes, or the boxes of `three_regions`."""
    if shape.areas is None:
        return three_regions(shape.frames, shape.height, shape.width)
    ends = torch.tensor([0.0, *shape.areas], dtype=torch.float64).cumsum(0) / sum(shape.areas)
    column = ((torch.arange(shape.width) + 0.5) / shape.width).expand(shape.frames, shape.height, -1)
    return SpaceTimeLayout.from_masks((column >= ends[:-1, None, None, None]) & (column < ends[1:, None, None, None]))


def _by_pixel(values: Tensor, shape: LayerShape) -> Tensor:
    """[frames * pixels] -> [batch * pixels, frames]"""
    return values.view(shape.frames, -1).T.repeat(shape.batch, 1).contiguous()
