"""Layers whose processor calls diffusers' attention dispatcher: an attention backend of our own, for single layers.

diffusers has no public way to add a backend. What is used of its private one: `AttentionBackendName`, a string enum;
`_AttentionBackendRegistry`, whose tables map a member to a function; and the attribute `_attention_backend` of a
processor, which names the member of its calls. Our members are not listed by the enum, so no one can name them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

try:
    from diffusers.models.attention_dispatch import (
        AttentionBackendName,
        _AttentionBackendRegistry,
        _templated_context_parallel_attention,
        dispatch_attention_fn,
    )
except ImportError as error:
    import diffusers

    raise ImportError(
        f"diffusers {diffusers.__version__} has another attention dispatcher than fame_accel knows: install 0.42"
    ) from error

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float | None], Tensor | None]

_MEMBERS: list[Any] = []  # made once, so that compiled code meets the same ones again
_IN_USE: set[Any] = set()


def calls_dispatcher(processor: object) -> bool:
    """Whether a processor's calls go to the backend that its `_attention_backend` names."""
    return hasattr(processor, "_attention_backend") and "_attention_backend" in names_in_call(processor)


def names_in_call(processor: object) -> set[str]:
    """The names that the code of a processor's `__call__` reads."""
    code = getattr(type(processor).__call__, "__code__", None)
    return set() if code is None else set(code.co_names)


def acquire_backend(attend: Attend, former: Any) -> Any:
    """A backend that calls `attend`; what this declines goes to the backend `former`, None for the active one."""
    free = [member for member in _MEMBERS if member not in _IN_USE]
    if free:
        member = free[0]
    else:
        name = f"fame_accel_{len(_MEMBERS)}"
        member = str.__new__(AttentionBackendName, name)
        member._name_, member._value_ = name.upper(), name
        _MEMBERS.append(member)
    _IN_USE.add(member)
    _AttentionBackendRegistry.register(member, supports_context_parallel=True)(_backend(attend, former))
    return member


def release_backend(member: Any) -> None:
    """Take a backend out of diffusers' tables again."""
    _IN_USE.remove(member)
    tables = (
        _AttentionBackendRegistry._backends,
        _AttentionBackendRegistry._constraints,
        _AttentionBackendRegistry._supported_arg_names,
    )
    for table in tables:
        table.pop(member)
    _AttentionBackendRegistry._supports_context_parallel.discard(member.value)


def _backend(attend: Attend, former: Any) -> Callable[..., Tensor]:
    def backend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        _parallel_config: Any = None,
    ) -> Tensor:
        """Attention of query, key and value [B, N, H, D], as the dispatcher hands them on."""
        if _parallel_config is not None:
            return _over_ranks(attend, query, key, value, attn_mask, scale, _parallel_config)
        out = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask, scale)
        if out is not None:
            return out.transpose(1, 2)
        return dispatch_attention_fn(
            query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, backend=former
        )

    return backend


def _over_ranks(
    attend: Attend,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    scale: float | None,
    parallel_config: Any,
) -> Tensor:
    """The same where diffusers divides the sequence among processes: Ulysses gives each all tokens of some heads."""
    if parallel_config.context_parallel_config.ring_degree > 1:
        raise RuntimeError(
            "a row's extremes need all of its keys, which ring attention never brings together: "
            "use ContextParallelConfig(ulysses_degree=...) with ring_degree=1"
        )

    def forward(
        _: Any, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *__: Any, **___: Any
    ) -> Tensor:
        out = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask, scale)
        if out is None:
            return dispatch_attention_fn(query, key, value, attn_mask, scale=scale)
        return out.transpose(1, 2)

    return _templated_context_parallel_attention(
        query, key, value, attn_mask, 0.0, False, scale, False, False, forward_op=forward, backward_op=None,
        _parallel_config=parallel_config,
    )  # fmt: skip
