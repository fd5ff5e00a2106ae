"""Strides that torch's CUDA kernels take: of channels 1, of the rest what 31 bits hold."""

from __future__ import annotations

from torch import Tensor, contiguous_format


def readable(x: Tensor, aligned: bool = False) -> Tensor:
    """x [B, H, N, D] where it has such strides, else a copy that does. aligned: to 16 bytes besides, if its rows are
    multiples of that."""
    wide = 16 // x.element_size() if aligned else 1
    fits = all(step % wide == 0 and step < 2**31 for step in x.stride()[:-1]) and x.stride(-1) == 1
    if fits and (not aligned or x.data_ptr() % 16 == 0):
        return x
    return x.clone(memory_format=contiguous_format)
