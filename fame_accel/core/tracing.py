"""Calls that are recorded rather than run: compiled, exported, traced, or on tensors without values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

Result = TypeVar("Result")


def is_recorded(query: Tensor) -> bool:
    """Whether this call is compiled, exported, traced, seen by a dispatch mode, or on the meta device.

    Such a call becomes one operator, which makes its plan when it runs on values.
    """
    return _is_recording() or query.is_meta


def has_values(tensor: Tensor) -> bool:
    """Whether the values of `tensor` can be looked at now."""
    return not (_is_recording() or tensor.is_meta or isinstance(tensor, FakeTensor))


def _is_recording() -> bool:
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
    )


def call_operator(operator: Callable[..., Result], query: Tensor, *arguments: Any, **options: Any) -> Result:
    """operator(query, ...), where a fake query may come with the real tensors of layouts and plans."""
    if not isinstance(query, FakeTensor):
        return operator(query, *arguments, **options)
    mode = query.fake_mode
    allowed, mode.allow_non_fake_inputs = mode.allow_non_fake_inputs, True
    try:
        return operator(query, *arguments, **options)
    finally:
        mode.allow_non_fake_inputs = allowed


def unwrapped(tensor: Tensor) -> Tensor:
    """`tensor` without the wrappers of torch.func, such as vmap's."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor
