"""A cache of plans: bounded, safe under threads, and no reason for a layout to live on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import RLock
from typing import Generic, TypeVar
from weakref import ref

Value = TypeVar("Value")


class WeakCache(Generic[Value]):
    """The values last used, by an owner, which is not kept alive, and a key."""

    def __init__(self, size: int = 32) -> None:
        self._size = size
        self._entries: OrderedDict[Hashable, tuple[ref[object], Value]] = OrderedDict()
        self._lock = RLock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, owner: object, key: Hashable, build: Callable[[], Value]) -> Value:
        """The value of `owner` and `key`, built on first use."""
        entry_key = (id(owner), key)
        with self._lock:
            entry = self._entries.get(entry_key)
            if entry is None or entry[0]() is not owner:  # an id comes again once its object is gone
                entry = self._entries[entry_key] = (ref(owner), build())
            self._entries.move_to_end(entry_key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)
            return entry[1]
