"""Which units stream, and how long a step then takes: arithmetic, no torch.

A copy hides behind the computing that runs beside it. So units that stream are spread evenly among
those that stay, by arithmetic and not by number; a resident prefix would leave the copy engine idle
while it runs and the compute engine idle afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

# Shares of streamed bytes at which the spread is even, and how far copies run ahead, in largest
# units: both by simulation of U-Nets' and transformers' sizes.
_LEVELS = 8
_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class UnitSize:
    """A unit's bytes and floating-point operations; 0 operations where they are not known."""

    index: int
    name: str
    bytes: int
    flops: int = 0


def stream_order(units: Sequence[UnitSize]) -> tuple[int, ...]:
    """Return the units' indices in the order in which they give up staying on the device.

    The first k of them are what streams, for a k that the budget decides. So a smaller budget
    streams all that a larger one does, and more: plans are monotone, and a change of the budget
    moves only the difference.

    At each level the walk over a step runs up a debt, its share of the bytes that are to stream, in
    proportion to the arithmetic; a unit whose half the debt covers is streamed and pays it off. The
    debt goes on into the next step, and never beyond what can be copied ahead.

    Args:
        units: in execution order.
    """
    total = sum(unit.bytes for unit in units)
    work = [unit.flops for unit in units]
    if not any(work):
        work = [unit.bytes for unit in units]
    all_work = max(sum(work), 1)
    streamed: set[int] = set()
    sequence: list[int] = []
    most = _AHEAD * max((unit.bytes for unit in units), default=0)
    debt = 0.0
    for level in range(1, _LEVELS + 1):
        target = total * level / _LEVELS
        picked = []
        for unit, share in zip(units, work, strict=True):
            debt = min(debt + target * share / all_work, most)
            if unit.index in streamed:
                debt -= unit.bytes
            elif debt >= unit.bytes / 2:
                picked.append(unit.index)
                streamed.add(unit.index)
                debt -= unit.bytes
        sequence += _spread(picked)
    # What computes next to nothing for its bytes never earned its way out: it leaves last.
    rest = sorted((unit for unit in units if unit.index not in streamed), key=lambda u: -u.bytes)
    return (*sequence, *(unit.index for unit in rest))


def _spread(items: Sequence[int]) -> list[int]:
    """Reorder so that every beginning of the result is spread over the whole (bit reversal)."""
    bits = max(len(items) - 1, 0).bit_length()
    places = (int(f"{place:0{bits}b}"[::-1], 2) if bits else 0 for place in range(1 << bits))
    return [items[place] for place in places if place < len(items)]


def choose_streamed(
    units: Sequence[UnitSize], order: Sequence[int], room_bytes: int
) -> frozenset[int]:
    """Return the units to stream so that the others take at most `room_bytes`.

    Args:
        units: all units.
        order: which leave first, see `stream_order`.
        room_bytes: what resident units may take.
    """
    sizes = {unit.index: unit.bytes for unit in units}
    left = sum(sizes.values())
    streamed: set[int] = set()
    for index in order:
        if left <= room_bytes:
            break
        streamed.add(index)
        left -= sizes[index]
    return frozenset(streamed)


def step_seconds(
    units: Sequence[UnitSize],
    streamed: Collection[int],
    *,
    ring_bytes: int,
    bytes_per_second: float,
    flops_per_second: float,
    steps: int = 4,
) -> float:
    """Simulate one copy engine beside one compute engine; return seconds per step, run in.

    A unit computes when the one before is done and its bytes are there; its copy begins when the
    copy before is done and enough of the ring is free, in order; the ring runs on across steps.

    Args:
        units: in execution order.
        streamed: indices of those whose bytes are copied in each step.
        ring_bytes: at least the largest of them.
        bytes_per_second: of the copy engine.
        flops_per_second: of the compute engine.
        steps: how many are run; the last one counts.
    """
    copied = 0.0
    computed = 0.0
    before = 0.0
    # Streamed units so far: bytes, and when their place in the ring came free.
    sizes: list[int] = []
    ends: list[float] = []
    oldest, held = 0, 0
    for _ in range(steps):
        before = computed
        for unit in units:
            if unit.index in streamed:
                held += unit.bytes
                free_at = 0.0
                while held > ring_bytes:
                    held -= sizes[oldest]
                    free_at = ends[oldest]
                    oldest += 1
                copied = max(copied, free_at) + unit.bytes / bytes_per_second
                computed = max(computed, copied) + unit.flops / flops_per_second
                sizes.append(unit.bytes)
                ends.append(computed)
            else:
                computed += unit.flops / flops_per_second
    return computed - before
