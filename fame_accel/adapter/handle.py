"""FameHandle: what `apply_fame` returns, whatever the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch

from fame_accel.adapter.config import FameConfig

_HANDLES: WeakKeyDictionary[torch.nn.Module, FameHandle] = WeakKeyDictionary()


def uncompiled(model: torch.nn.Module) -> torch.nn.Module:
    """The model itself, where it is wrapped by torch.compile."""
    return getattr(model, "_orig_mod", model)


def handle_of(model: torch.nn.Module) -> FameHandle | None:
    """The handle of the FAME attention that is installed on a model."""
    return _HANDLES.get(uncompiled(model))


class FameHandle:
    """What `apply_fame` returns; `restore()`, or leaving the `with` block, undoes it.

    Attributes:
        config: as given.
    """

    def __init__(self, config: FameConfig) -> None:
        self.config = config
        self._paused = False
        self._models: list[torch.nn.Module] = []

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within the block every call is plain: for an unconditional pass of its own."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def restore(self) -> None:
        """Put back what was there before; a second call does nothing."""
        raise NotImplementedError

    def _register(self, model: torch.nn.Module) -> None:
        self._models.append(uncompiled(model))
        _HANDLES[uncompiled(model)] = self

    def _unregister(self) -> None:
        for model in self._models:
            _HANDLES.pop(model, None)
        self._models = []

    def __enter__(self) -> FameHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()
