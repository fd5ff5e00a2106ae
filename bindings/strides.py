"""The strides that torch's CUDA kernels take: 1 between channels, and what 31 bits hold between the rest."""

from __future__ import annotations

from torch import Tensor, contiguous_format


def with_supported_strides(x: Tensor, aligned: bool = False) -> Tensor:
    """`x` [B, H, N, D] where it has such strides, otherwise a contiguous copy.

    Args:
        x: any strides.
        aligned: whether rows must begin at multiples of 16 bytes, too, if their length is one.
    """
    multiple = 16 // x.element_size() if aligned else 1
    fits = all(step % multiple == 0 and step < 2**31 for step in x.stride()[:-1]) and x.stride(-1) == 1
    if fits and (not aligned or x.data_ptr() % 16 == 0):
        return x
    return x.clone(memory_format=contiguous_format)
