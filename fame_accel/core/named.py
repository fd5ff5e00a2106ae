"""Objects known by a name, for functions that torch.compile runs while it traces: it passes them constants alone, and
takes strings, but not every version of it such objects, for constants."""

from __future__ import annotations

from itertools import count
from weakref import WeakValueDictionary

_OBJECTS: WeakValueDictionary[str, Named] = WeakValueDictionary()
_NUMBERS = count()


class Named:
    """Has a `name` of its own from `take_name` on, copies and unpickled ones too."""

    name: str

    def take_name(self) -> None:
        self.name = f"{type(self).__name__} {next(_NUMBERS)}"
        _OBJECTS[self.name] = self

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.take_name()


def by_name(name: str) -> Named:
    """The living object of a name."""
    return _OBJECTS[name]
