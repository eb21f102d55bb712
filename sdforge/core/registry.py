"""A table of named things: samplers, schedules, families, image formats.

Names are looked up without regard to case and by alias, because A1111's clients send
"euler a", "k_euler_a" and "Euler a" for the same sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from sdforge.core.errors import UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """Named values in the order they were registered."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}
        self._lookup: dict[str, str] = {}

    def add(self, name: str, value: T, aliases: tuple[str, ...] = ()) -> T:
        """Register `value`; a name or alias that is taken already raises `ValueError`."""
        for key in (name, *aliases):
            holder = self._lookup.setdefault(key.casefold(), name)
            if holder != name:
                raise ValueError(f"{self.kind} {key!r} is registered already, by {holder!r}")
        if name in self._items:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._items[name] = value
        return value

    def register(self, name: str, aliases: tuple[str, ...] = ()) -> Callable[[T], T]:
        """Decorate a function or class to register it under `name`."""

        def decorate(value: T) -> T:
            return self.add(name, value, aliases)

        return decorate

    def canonical(self, name: str) -> str | None:
        """Return the registered spelling of a name or alias, or None."""
        return self._lookup.get(name.strip().casefold())

    def get(self, name: str, field: str | None = None) -> T:
        """Return the value of a name or alias.

        Raises:
            UnknownName: with the names that look alike.
        """
        canonical = self.canonical(name)
        if canonical is None:
            raise UnknownName(self.kind, name, self._items, field)
        return self._items[canonical]

    def names(self) -> list[str]:
        """Return all names, without aliases, in order of registration."""
        return list(self._items)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.canonical(name) is not None

    def __iter__(self) -> Iterator[T]:
        return iter(self._items.values())

    def __len__(self) -> int:
        return len(self._items)
