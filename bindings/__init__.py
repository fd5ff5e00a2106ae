"""Torch operators over the kernels, in the namespace torch.ops.fame_accel."""

from .device import triton_unavailable
from .library import declare, empty_outputs
from .pair_ops import few_keys_attention, short_sequences_attention
from .sdpa_ops import sdpa_attention
from .tile_ops import tile_attention, tile_shape

__all__ = [
    "declare",
    "empty_outputs",
    "few_keys_attention",
    "sdpa_attention",
    "short_sequences_attention",
    "tile_attention",
    "tile_shape",
    "triton_unavailable",
]
