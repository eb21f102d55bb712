"""The order in which waiting jobs run: by priority, then by rank. Pure; `queue.py` keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, order=False)
class Place:
    """Where a job stands: a higher priority runs first, within it a lower rank."""

    priority: int = 0
    rank: float = 0.0

    @property
    def sort_key(self) -> tuple[int, float]:
        """Sorts places in the order in which they run."""
        return -self.priority, self.rank


def in_order(places: Mapping[str, Place]) -> list[str]:
    """Return the ids in the order in which they run."""
    return sorted(places, key=lambda name: places[name].sort_key)


def last_rank(places: Mapping[str, Place]) -> float:
    """Return a rank behind all others."""
    return max((place.rank for place in places.values()), default=0.0) + 1.0


def moved(places: Mapping[str, Place], name: str, index: int) -> dict[str, Place]:
    """Return the places that change when a job is put at an index, from 0 for the first.

    Beyond the end is the end. A job that comes to stand among those of another priority takes
    theirs; between two priorities it keeps its own where that fits.
    """
    others = [other for other in in_order(places) if other != name]
    index = min(max(index, 0), len(others))
    before = places[others[index - 1]] if index else None
    after = places[others[index]] if index < len(others) else None
    priority = _fitting(places[name].priority, before, after)
    low = before.rank if before is not None and before.priority == priority else None
    high = after.rank if after is not None and after.priority == priority else None
    rank = _between(low, high, places[name].rank)
    if rank is not None:
        return {name: Place(priority=priority, rank=rank)}
    return _renumbered([*others[:index], name, *others[index:]], places, name, priority)


def _fitting(own: int, before: Place | None, after: Place | None) -> int:
    """Return the priority nearest to one's own that may stand between two."""
    if before is not None:
        own = min(own, before.priority)
    if after is not None:
        own = max(own, after.priority)
    return own


def _between(low: float | None, high: float | None, own: float) -> float | None:
    """Return a rank between two; None when no number is left between them."""
    if low is None and high is None:
        return own
    if low is None:
        return (high or 0.0) - 1.0
    if high is None:
        return low + 1.0
    middle = (low + high) / 2
    return middle if low < middle < high else None


def _renumbered(
    order: Sequence[str], places: Mapping[str, Place], name: str, priority: int
) -> dict[str, Place]:
    """Give all jobs whole ranks anew."""
    return {
        other: Place(
            priority=priority if other == name else places[other].priority, rank=float(rank)
        )
        for rank, other in enumerate(order, start=1)
    }
