"""Declaring an operator: schema, implementation per dispatch key, and the shapes it returns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LIBRARY = torch.library.Library("fame_accel", "DEF")


def declare(name: str, schema: str, implementation: Callable, keys: tuple[str, ...]) -> Callable:
    """Define fame_accel::name, whose first argument is the query and which returns (out like query, lse)."""
    LIBRARY.define(name + schema + " -> (Tensor out, Tensor lse)", tags=(torch.Tag.pt2_compliant_tag,))
    for key in keys:
        LIBRARY.impl(name, implementation, key)
    torch.library.register_fake(f"fame_accel::{name}", lambda query, *_: empty_outputs(query), lib=LIBRARY)
    return getattr(torch.ops.fame_accel, name).default


def empty_outputs(query: Tensor) -> tuple[Tensor, Tensor]:
    """out with the layout of the query and contiguous float32 lse [B, H, Nq], uninitialised."""
    return torch.empty_like(query), query.new_empty(query.shape[:3], dtype=torch.float32)
