"""Pairwise attention keeps rows without keys away from the others."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fame_accel.bindings.pairwise import attend_pairwise


class NoNanInProducts(TorchDispatchMode):
    """Fails where a weight that is NaN enters a product: on some CPUs it spoils rows beside its own."""

    products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bmm.default:
            self.products += 1
            assert not args[0].isnan().any()
        return func(*args, **kwargs or {})


def test_rows_without_keys_bring_no_nan_into_products():
    query, key, value = (torch.randn(1, 2, tokens, 16, dtype=torch.bfloat16) for tokens in (6, 7, 7))
    region, frame = torch.ones(1, 7, dtype=torch.int32), torch.tensor([[0, 0, 1, 1, 1, 1, 1]], dtype=torch.int32)
    bias = torch.zeros(2, 2, 2)
    bias[:, 0] = -math.inf
    for strength in (None, torch.ones(2, 2, 2)):
        with NoNanInProducts() as mode:
            out, lse = attend_pairwise(
                query, key, value, region[:, :6], frame[:, :6], region, frame, strength, bias, None, None, 0.25, True
            )
        assert mode.products
        assert not out[:, :, :2].any() and (lse[:, :, :2] == -math.inf).all()
        assert out.isfinite().all() and lse[:, :, 2:].isfinite().all()
