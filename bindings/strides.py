"""Strides that torch's CUDA kernels take: of channels 1, of the rest multiples of 16 bytes that 31 bits hold."""

from __future__ import annotations

from torch import Tensor, contiguous_format


def readable(x: Tensor) -> Tensor:
    """x [B, H, N, D] where it has such strides, else a copy that does if rows are multiples of 16 bytes."""
    wide = 16 // x.element_size()
    fits = x.data_ptr() % 16 == 0 and all(step % wide == 0 and step < 2**31 for step in x.stride()[:-1])
    return x if fits and x.stride(-1) == 1 else x.clone(memory_format=contiguous_format)
