"""Sizes that differ from plan to plan, so that torch.compile does not take them for constants."""

from __future__ import annotations

import torch
from torch import Tensor


def dynamic_size(tensor: Tensor, dim: int = 0) -> Tensor:
    """`tensor` with at least two entries along `dim`, whose number compiled code leaves open.

    torch.compile takes sizes 0 and 1 for constants whatever they are marked as: zeros are appended up to two entries.
    """
    if tensor.shape[dim] < 2:
        shape = list(tensor.shape)
        shape[dim] = 2 - shape[dim]
        tensor = torch.cat([tensor, tensor.new_zeros(shape)], dim)
    # what torch._dynamo.maybe_mark_dynamic does, without the second that its import takes
    marks: set[int] = getattr(tensor, "_dynamo_weak_dynamic_indices", set())
    tensor._dynamo_weak_dynamic_indices = marks | {dim}  # type: ignore[attr-defined]
    return tensor
