"""Which addresses a kernel asks for, seen in Triton's interpreter."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor


@dataclass
class Traffic:
    """Addresses loaded and stored, each with its size in bytes, and the 32-byte sectors that each program touched."""

    loads: list[tuple[Tensor, int]] = field(default_factory=list)
    stores: list[tuple[Tensor, int]] = field(default_factory=list)
    sectors: dict[Any, set[int]] = field(default_factory=lambda: defaultdict(set))

    def of(self, tensor: Tensor) -> Tensor:
        """The addresses of a tensor's elements asked for, repeats included."""
        start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()
        return torch.cat([a[(a >= start) & (a < end)] for a, _ in (*self.loads, *self.stores)])

    def touches_once(self, tensor: Tensor) -> bool:
        """Whether each element was asked for once."""
        touched = self.of(tensor)
        return touched.numel() == tensor.numel() == touched.unique().numel()

    @property
    def asked_bytes(self) -> int:
        return sum(addresses.numel() * size for addresses, size in (*self.loads, *self.stores))

    @property
    def sector_bytes(self) -> int:
        return sum(32 * len(own) for own in self.sectors.values())


def watch(call: Any, monkeypatch: pytest.MonkeyPatch) -> Traffic:
    """Run a launch and say what it asked memory for."""
    from triton.runtime.interpreter import interpreter_builder as builder

    traffic = Traffic()

    def counted(name: str, mask_place: int, result: list[tuple[Tensor, int]]) -> None:
        function = getattr(builder, name)

        def run(pointers: Any, *rest: Any) -> Any:
            size = pointers.get_element_ty().primitive_bitwidth // 8
            addresses = pointers.data[rest[mask_place].data]
            result.append((torch.from_numpy(addresses.astype("int64")), size))
            traffic.sectors[builder.grid_idx].update((addresses // 32).tolist())
            return function(pointers, *rest)

        monkeypatch.setattr(builder, name, run)

    counted("create_masked_load", 0, traffic.loads)
    counted("create_masked_store", 1, traffic.stores)
    call.kernel[call.grid](**call.arguments, **call.options)
    return traffic
