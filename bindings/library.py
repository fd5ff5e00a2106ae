"""Declaring an operator: schema, implementation per dispatch key, and the outputs it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

LIBRARY = torch.library.Library("fame_accel", "DEF")


def declare(
    name: str,
    arguments: str,
    implementation: Callable[..., tuple[Tensor, Tensor]],
    keys: Sequence[str],
    tags: Sequence[torch.Tag] = (),
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Define the operator fame_accel::name.

    Each operator also takes `plain_items`, an int64 tensor of one entry on the CPU: batch items before it get plain
    attention and lse NaN. A schedule changes it in place, and compiled code stays as it is. Layouts and factors must
    then serve all batch items.

    Args:
        name: of the operator.
        arguments: in schema syntax, without parentheses; they begin with `Tensor query, Tensor key, Tensor value` and
            hold `float scale`.
        implementation: returns (out, lse), out like the query and lse as `empty_outputs` makes it.
        keys: dispatch keys of the implementation.
        tags: further tags of the operator.

    Returns:
        The operator.
    """
    schema = f"{name}({arguments}, *, Tensor? plain_items=None) -> (Tensor out, Tensor lse)"
    scale_index = next(i for i, argument in enumerate(arguments.split(",")) if argument.split() == ["float", "scale"])

    def run(*values: Any, plain_items: Tensor | None = None) -> tuple[Tensor, Tensor]:
        query, key, value, *rest = values
        device = query.device.type
        if torch.is_autocast_enabled(device):  # the operator computes in the dtype of its inputs
            with torch.autocast(device, enabled=False):
                return run(*values, plain_items=plain_items)
        plain = 0 if plain_items is None else int(plain_items)
        if plain == 0:
            return implementation(*values)
        plain_out = scaled_dot_product_attention(query[:plain], key[:plain], value[:plain], scale=values[scale_index])
        others = None if plain == len(query) else implementation(query[plain:], key[plain:], value[plain:], *rest)
        out, lse = empty_outputs(query)  # as late as can be: the implementation needs memory of its own
        if others is None and plain_out.stride() == out.stride():
            return plain_out, lse.fill_(torch.nan)
        out[:plain], lse[:plain] = plain_out, torch.nan
        if others is not None:
            out[plain:], lse[plain:] = others
        return out, lse

    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag, *tags))
    for dispatch_key in keys:
        LIBRARY.impl(name, run, dispatch_key)
    torch.library.register_fake(f"fame_accel::{name}", lambda query, *_, **__: empty_outputs(query), lib=LIBRARY)
    return getattr(torch.ops.fame_accel, name).default


def empty_outputs(query: Tensor) -> tuple[Tensor, Tensor]:
    """Uninitialized out like the query, and contiguous lse [B, H, Nq], float32 (float64 for a float64 query)."""
    lse_dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    return torch.empty_like(query), query.new_empty(query.shape[:3], dtype=lse_dtype)
