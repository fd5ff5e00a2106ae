"""Frozen dataclasses as pytrees: tensors and nested dataclasses are leaves or branches, the other fields constants."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any, TypeVar

import torch
from torch.utils import _pytree

Class = TypeVar("Class", bound=type)


def constant(**options: Any) -> Any:
    """A dataclass field that a pytree holds as a constant (numbers, strings)."""
    return field(metadata={"constant": True}, **options)


def register_pytree(cls: Class) -> Class:
    """Register a dataclass whose fields are tensors, registered dataclasses, None, or made with `constant()`."""
    children = [one.name for one in fields(cls) if not one.metadata.get("constant")]
    constants = [one.name for one in fields(cls) if one.metadata.get("constant")]

    def flatten(value: Any) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(value, name) for name in children], tuple(getattr(value, name) for name in constants)

    def flatten_with_keys(value: Any) -> tuple[list[Any], tuple[Any, ...]]:
        leaves, context = flatten(value)
        return [(_pytree.GetAttrKey(name), leaf) for name, leaf in zip(children, leaves, strict=True)], context

    def unflatten(leaves: Any, context: tuple[Any, ...]) -> Any:
        return cls(**dict(zip(children, leaves, strict=True)), **dict(zip(constants, context, strict=True)))

    _pytree.register_pytree_node(
        cls,
        flatten,
        unflatten,
        serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        to_dumpable_context=list,
        from_dumpable_context=lambda context: tuple(tuple(x) if isinstance(x, list) else x for x in context),
        flatten_with_keys_fn=flatten_with_keys,
    )
    torch.serialization.add_safe_globals([cls])  # exported programs keep example inputs
    return cls
