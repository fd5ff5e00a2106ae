"""The size term of a row's strength in cross-attention."""

from __future__ import annotations

import torch
from torch import Tensor

from fame_accel.adapter.config import FameConfig
from fame_accel.core.layout import TokenLayout


def cross_size(config: FameConfig, layout: TokenLayout, text_layout: TokenLayout) -> Tensor:
    """float32 [1, N]: 1 - the share of what shares a region with each pixel, as `config.cross_size` says."""
    if config.cross_size == "tokens":
        return layout.size_regularization(text_layout)[None]
    frames = int(layout.frame[0].unique().numel())
    region = layout.region.view(frames, -1)
    return TokenLayout(region, torch.zeros_like(region), 1).size_regularization().flatten()[None]
