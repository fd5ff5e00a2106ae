"""Layers whose processor calls scaled_dot_product_attention: the call is intercepted while the processor runs."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fame_accel.adapter.dispatched import Attend, names_in_call

_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


class _Interception(TorchFunctionMode):
    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.attend = attend

    def __torch_function__(self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            given = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
            out = self.attend(given["query"], given["key"], given["value"], given.get("attn_mask"), given.get("scale"))
            if out is not None:
                return out
        if func is Tensor.unflatten:  # torch.compile cannot follow its super()
            return torch.unflatten(*args, **kwargs)
        return func(*args, **kwargs)


def intercepting(processor: Any, attend: Attend) -> Any:
    """A processor that does what the given one does, with `attend` in place of the attention call.

    It is of a subclass, with the signature and the attributes of the original: diffusers looks at all three.
    """
    cls: Any = type(processor)
    hooked: Any = object.__new__(_subclass(cls))
    hooked.__dict__.update(processor.__dict__, fame_accel_attend=attend)
    return hooked


@functools.cache  # one a class, so that compiled code meets it again
def _subclass(cls: Any) -> Any:
    original = cls.__call__

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _Interception(self.fame_accel_attend):
            return original(self, *args, **kwargs)

    return type("Hooked" + cls.__name__, (cls,), {"__call__": call})


def calls_attention(processor: Any) -> bool:
    """Whether a processor's own code calls torch's attention, or diffusers' dispatcher, which does."""
    return bool({"scaled_dot_product_attention", "dispatch_attention_fn"} & names_in_call(processor))
