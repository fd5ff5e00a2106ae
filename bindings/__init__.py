"""Torch operators over the kernels, in the namespace torch.ops.fame_accel."""

from . import chunked_ops, grouped_ops, tile_ops
from .chunked_ops import chunked_attention
from .grouped_ops import grouped_attention
from .tile_ops import (
    few_keys_attention,
    short_sequences_attention,
    tile_attention,
    tile_shape,
    triton_unavailable,
)

__all__ = [
    "chunked_attention",
    "chunked_ops",
    "few_keys_attention",
    "grouped_attention",
    "grouped_ops",
    "short_sequences_attention",
    "tile_attention",
    "tile_ops",
    "tile_shape",
    "triton_unavailable",
]
