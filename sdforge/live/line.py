"""Who is drawn next, and which wishes are superseded. Pure: plain values, no clock, no lock.

Each session has one place for a wish that waits; a newer wish takes it over, so the line never
grows beyond the number of sessions. A session's next frame begins only when its last one has been
shown (or has failed), so after any wish at most one frame is still older than it: the one that was
on its way. Sessions take turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Waiting(Generic[T]):
    """A wish in line: its number and what it is."""

    number: int
    wish: T


@dataclass
class _Place(Generic[T]):
    """One session: its wish, and the frame that is being drawn or on its way to the client."""

    newest: int = -1
    waiting: Waiting[T] | None = None
    drawing: int | None = None
    on_its_way: int | None = None
    # The turn in which it was served last.
    served: int = 0


class Line(Generic[T]):
    """The wishes of all sessions."""

    def __init__(self) -> None:
        self._places: dict[str, _Place[T]] = {}
        self._turn = 0

    def __len__(self) -> int:
        """Return how many wishes wait."""
        return sum(place.waiting is not None for place in self._places.values())

    def __contains__(self, session: str) -> bool:
        """Tell whether a session is open."""
        return session in self._places

    def sessions(self) -> Iterator[str]:
        """Yield the open sessions."""
        return iter(self._places)

    def open(self, session: str) -> None:
        """Let a session in; it is served before those that had their turn already."""
        self._places.setdefault(session, _Place())

    def close(self, session: str) -> None:
        """Forget a session and its wish; a frame that is being drawn for it will be dropped."""
        self._places.pop(session, None)

    def ask(self, session: str, number: int, wish: T) -> Waiting[T] | None:
        """Put a wish in line; return the one that it supersedes.

        One that is no newer than all before it changes nothing and is returned itself.
        """
        place = self._places.get(session)
        asked = Waiting(number, wish)
        if place is None or number <= place.newest:
            return asked
        before = place.waiting
        place.newest = number
        place.waiting = asked
        return before

    def take(self) -> tuple[str, Waiting[T]] | None:
        """Return whose wish is drawn next; None when nobody's can be."""
        ready = [
            (place.served, session, place.waiting)
            for session, place in self._places.items()
            if place.waiting is not None and place.drawing is None and place.on_its_way is None
        ]
        if not ready:
            return None
        _, session, taken = min(ready, key=lambda row: row[0])
        place = self._places[session]
        self._turn += 1
        place.waiting, place.drawing, place.served = None, taken.number, self._turn
        return session, taken

    def drawn(self, session: str, number: int) -> bool:
        """Take note that a frame goes to its client; False when that is gone."""
        place = self._places.get(session)
        if place is None or place.drawing != number:
            return False
        place.drawing, place.on_its_way = None, number
        return True

    def failed(self, session: str, number: int) -> None:
        """Take note that there will be no frame for a wish that was taken."""
        place = self._places.get(session)
        if place is not None and place.drawing == number:
            place.drawing = None

    def put_back(self, session: str, taken: Waiting[T]) -> None:
        """Put a wish in line again that was taken and not drawn, unless a newer one is there."""
        place = self._places.get(session)
        if place is None or place.drawing != taken.number:
            return
        place.drawing = None
        if place.waiting is None:
            place.waiting = taken

    def shown(self, session: str, number: int) -> bool:
        """Take note that the client has a frame; False when it was not on its way."""
        place = self._places.get(session)
        if place is None or place.on_its_way != number:
            return False
        place.on_its_way = None
        return True

    def waits(self, session: str) -> bool:
        """Tell whether a session has a wish in line."""
        place = self._places.get(session)
        return place is not None and place.waiting is not None
