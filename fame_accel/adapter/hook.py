"""hook_attention: replace the attention call inside a model's layers, and leave everything else of them alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fame_accel.adapter.dispatched import Attend, acquire_backend, calls_dispatcher, release_backend
from fame_accel.adapter.intercepted import calls_attention, intercepting

_HOOKS: WeakKeyDictionary[torch.nn.Module, AttentionHook] = WeakKeyDictionary()


def hook_attention(model: torch.nn.Module, select: Callable[[str], Attend | None]) -> AttentionHook:
    """Replace the attention call of chosen layers of a diffusers model.

    The layers keep their processors, which project, normalize and rotate as before. Only the call in the end changes,
    `scaled_dot_product_attention` or diffusers' dispatcher. It becomes

        attend(query, key, value, attn_mask, scale) -> out, or None to leave the call to the model

    with query and out [B, H, Nq, D], key and value [B, H, Nk, D], attn_mask and scale as the layer passes them. Where
    layers are compiled, give layers of one kind the same function: each distinct one is compiled anew.

    Args:
        model: a diffusers model, such as a pipeline's transformer or unet.
        select: returns, for the name of each attention layer, its `attend`, or None for a layer to leave alone.

    Returns:
        A hook with `.restore()`, usable in a `with` statement. In the first uncompiled pass, it checks that every
        hooked layer calls its function.

    Raises:
        TypeError, ValueError: an argument is of another type, or select chooses no layer.
        RuntimeError: the model is hooked already, or a chosen layer cannot be: linear attention, say.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not callable(select):
        raise TypeError(f"select must be a function of a layer's name, got {type(select).__name__}")
    if model in _HOOKS:
        raise RuntimeError("the model's attention is hooked already: restore() that hook first")
    return AttentionHook(model, select)


class AttentionHook:
    """What `hook_attention` returns; `restore()`, or leaving the `with` block, undoes it.

    Attributes:
        layers: the hooked attention modules by name.
    """

    def __init__(self, model: torch.nn.Module, select: Callable[[str], Attend | None]) -> None:
        self._model = model
        self.layers: dict[str, Any] = {}
        self._former: dict[str, Any] = {}  # a layer's processor, or the backend of one that calls the dispatcher
        self._installed: dict[str, Any] = {}
        self._backends: dict[Any, Any] = {}
        self._trials: dict[str, list[Any]] = {}
        selected = {}
        for name, module in model.named_modules():
            if type(module).__name__.startswith("FreeNoise"):
                raise RuntimeError(f"{name} attends in windows of frames, as FreeNoise does: call disable_free_noise()")
            if callable(getattr(module, "processor", None)):
                attend = select(name)
                if attend is not None:
                    if not callable(attend):
                        kind = type(attend).__name__
                        raise TypeError(f"select must return a function or None for each layer, got {kind} for {name}")
                    _check_layer(name, module.processor)
                    selected[name] = (module, attend)
        if not selected:
            raise ValueError(f"select must choose an attention layer of the {type(model).__name__}, got none")
        counted = {attend: _Counted(attend) for _, attend in selected.values()}
        for name, (module, attend) in selected.items():
            self._install(name, module, counted[attend])
        _HOOKS[model] = self

    def _install(self, name: str, module: Any, attend: _Counted) -> None:
        self.layers[name] = module
        processor = module.processor
        if calls_dispatcher(processor):
            former = processor._attention_backend
            if (attend, former) not in self._backends:
                self._backends[attend, former] = acquire_backend(attend, former)
            self._former[name], self._installed[name] = former, self._backends[attend, former]
            processor._attention_backend = self._installed[name]
        else:
            self._former[name], self._installed[name] = processor, intercepting(processor, attend)
            module.processor = self._installed[name]
        self._try(name, module, attend)

    def _try(self, name: str, module: Any, attend: _Counted) -> None:
        """Check in the layer's first uncompiled pass that it calls its function."""
        before = []

        def enter(*_: Any) -> None:
            if not torch.compiler.is_compiling():
                before.append(attend.calls)

        def leave(*_: Any) -> None:
            if torch.compiler.is_compiling() or not before:
                return
            if attend.calls == before[-1]:
                raise RuntimeError(f"{name} never made the attention call that was replaced: {_UNKNOWN_DIFFUSERS}")
            for handle in self._trials.pop(name, []):
                handle.remove()

        self._trials[name] = [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def check(self) -> None:
        """RuntimeError where another call has replaced what was installed."""
        lost = [name for name in self.layers if self._current(name) is not self._installed[name]]
        if lost:
            raise RuntimeError(
                f"the attention that was installed is gone from {len(lost)} layers, {lost[0]} among them: "
                "set_attention_backend, fuse_qkv_projections, set_attn_processor and the like replace it. "
                "Call them first, then this; now restore() and install again"
            )

    def _current(self, name: str) -> Any:
        processor = self.layers[name].processor
        return processor._attention_backend if isinstance(self._installed[name], str) else processor

    def restore(self) -> None:
        """Put back what was there before; a second call does nothing."""
        if _HOOKS.get(self._model) is not self:
            return
        del _HOOKS[self._model]
        for name, module in self.layers.items():
            if isinstance(self._installed[name], str):
                module.processor._attention_backend = self._former[name]
            else:
                module.processor = self._former[name]
        for backend in self._backends.values():
            release_backend(backend)
        for handles in self._trials.values():
            for handle in handles:
                handle.remove()

    def __enter__(self) -> AttentionHook:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()


class _Counted:
    """A function of attention, and how often it was called outside of compiled code."""

    def __init__(self, attend: Attend) -> None:
        self.attend = attend
        self.calls = 0

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, scale: float | None
    ) -> Tensor | None:
        if not torch.compiler.is_compiling():
            self.calls += 1
        if key.shape[1] != query.shape[1]:
            raise ValueError(
                f"key has {key.shape[1]} heads and query {query.shape[1]}: grouped-query attention is not supported"
            )
        out = self.attend(query, key, value, attn_mask, scale)
        if out is not None and out.shape != query.shape:
            raise ValueError(f"attend must return the shape of query, {tuple(query.shape)}, got {tuple(out.shape)}")
        return out


_UNKNOWN_DIFFUSERS = "this class of diffusers is unknown to fame_accel, or has changed"


def _check_layer(name: str, processor: Any) -> None:
    if not calls_dispatcher(processor) and not calls_attention(processor):
        raise RuntimeError(
            f"{name} cannot be hooked: its {type(processor).__name__} makes no call of softmax attention "
            "(linear attention, as Sana has, is no such call)"
        )
