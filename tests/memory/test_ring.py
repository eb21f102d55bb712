"""The ring of bytes: first in first out, never overwriting what still computes."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdforge.memory.ring import Ring, Successors
from sdforge.memory.streams import Copies


class Clock:
    """A copy engine whose events are numbers; it notes what each copy waited for."""

    def __init__(self) -> None:
        self.issued = 0
        self.waited: list[int | None] = []

    def copy(self, copies: Copies, after: int | None) -> int:
        for target, source in copies:
            target.copy_(source)
        self.waited.append(after)
        return len(self.waited)

    def wait(self, event: int) -> None:
        assert event <= len(self.waited)

    def mark(self) -> int:
        self.issued += 1
        return self.issued


def ring_of(
    sizes: dict[int, int], size: int, order: tuple[int, ...] = ()
) -> tuple[Ring, Clock, dict[int, torch.Tensor]]:
    clock = Clock()
    sources = {unit: torch.full((count,), unit, dtype=torch.uint8) for unit, count in sizes.items()}
    ring = Ring(
        torch.zeros(size, dtype=torch.uint8),
        clock,
        sizes=sizes,
        copies=lambda unit, place: [(place, sources[unit])],
        successors=Successors(order),
    )
    return ring, clock, sources


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=10),
    more=st.integers(0, 120),
    runs=st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=6),
)
def test_a_unit_has_its_bytes_whatever_the_order(
    sizes: list[int], more: int, runs: list[list[int]]
) -> None:
    by_unit = dict(enumerate(sizes))
    ring, _, sources = ring_of(by_unit, max(sizes) + more)
    for run in runs:
        for number in run:
            unit = number % len(sizes)
            place = ring.acquire(unit)
            assert torch.equal(place, sources[unit])
            ring.release()
        if len(run) == 7:
            ring.reset()


def test_the_ring_learns_the_order_and_runs_on_across_steps() -> None:
    sizes = dict.fromkeys(range(6), 10)
    ring, clock, sources = ring_of(sizes, 30)
    for step in range(4):
        for unit in range(6):
            assert torch.equal(ring.acquire(unit), sources[unit])
        if step == 1:
            learnt = ring.missed
    assert learnt == 7  # all of the first step, and the first of the second
    assert ring.missed == learnt
    assert len(clock.waited) <= 4 * 6 + 3


def test_a_known_order_misses_only_the_first() -> None:
    ring, _, _ = ring_of(dict.fromkeys(range(6), 10), 30, (3, 4, 5, 0, 1, 2))
    for unit in (3, 4, 5, 0, 1, 2, 3, 4):
        ring.acquire(unit)
    assert ring.missed == 1


def test_bytes_are_overwritten_only_after_the_computing_that_reads_them() -> None:
    ring, clock, _ = ring_of(dict.fromkeys(range(3), 10), 20, (0, 1, 2))
    ring.acquire(0)  # copies 0 and 1, which fill the ring
    assert clock.waited == [1, 1]
    ring.release()  # mark 2: 2 may overwrite 0 after it
    assert clock.waited == [1, 1, 2]
    ring.acquire(1)
    ring.release()  # mark 3: 0 may overwrite 1 after it
    assert clock.waited == [1, 1, 2, 3]


def test_a_unit_that_was_left_out_costs_nothing_but_its_copy() -> None:
    ring, _, sources = ring_of(dict.fromkeys(range(4), 10), 40, (0, 1, 2, 3))
    ring.acquire(0)
    assert torch.equal(ring.acquire(2), sources[2])
    assert ring.missed == 1
