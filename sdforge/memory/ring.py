"""A ring of bytes on the device through which units stream, first in, first out.

The copy engine fills it ahead of the computing, in the order that units were seen to run, and goes
on across steps: the last unit of a step is followed by the first of the next. A unit that comes
unexpectedly is copied while computing waits: slower, and counted, but right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sdforge.memory.streams import Copies, CopyStream, Event


@dataclass(frozen=True, eq=False)
class _Slot:
    """A unit's bytes in the ring; `start` counts on and on, its place is the rest by the size."""

    unit: int
    start: int
    size: int
    event: Event

    @property
    def end(self) -> int:
        return self.start + self.size


class Successors:
    """Which unit followed which when they last ran."""

    def __init__(self, order: Sequence[int] = ()) -> None:
        """Begin with a known cycle, or with nothing."""
        self._after = dict(zip(order, (*order[1:], *order[:1]), strict=True))
        self._last: int | None = None

    def saw(self, unit: int) -> None:
        """Learn that `unit` runs now."""
        if self._last is not None:
            self._after[self._last] = unit
        self._last = unit

    def forget_last(self) -> None:
        """Say that whatever runs next does not follow what ran before."""
        self._last = None

    def after(self, unit: int) -> int | None:
        """Return what to expect after `unit`."""
        return self._after.get(unit)


class Ring:
    """`buffer` on the device, units coming and going."""

    def __init__(
        self,
        buffer: torch.Tensor,
        stream: CopyStream,
        *,
        sizes: dict[int, int],
        copies: Callable[[int, torch.Tensor], Copies],
        successors: Successors,
    ) -> None:
        """Stream through `buffer`.

        Args:
            buffer: bytes on the device, at least as many as the largest unit has.
            stream: the copy engine.
            sizes: bytes of each unit that streams.
            copies: given a unit and its part of the ring, what is to be copied.
            successors: the order, learned on.
        """
        self.missed = 0
        self._buffer = buffer
        self._size = buffer.numel()
        self._stream = stream
        self._sizes = sizes
        self._copies = copies
        self._successors = successors
        self._waiting: deque[_Slot] = deque()  # copied or being copied, not yet used
        self._live: _Slot | None = None  # what runs now
        self._running: int | None = None  # the unit that runs now, or ran last
        self._used: deque[_Slot] = deque()  # `event`: when the computing with it is done
        self._write = 0
        # The buffer's bytes may still be read by what was computed before they were given to us.
        self._begin: Event = stream.mark()

    def acquire(self, unit: int) -> torch.Tensor:
        """Return a unit's bytes, for computing that is issued until `release`."""
        self.release()
        self._successors.saw(unit)
        if any(slot.unit == unit for slot in self._waiting):
            while self._waiting[0].unit != unit:
                self._retire(self._waiting.popleft())
        else:
            while self._waiting:
                self._retire(self._waiting.popleft())
            self.missed += 1
            self._issue(unit)
        slot = self._waiting.popleft()
        self._live = slot
        self._running = unit
        self._stream.wait(slot.event)
        self._prefetch()
        return self._bytes(slot)

    def release(self) -> None:
        """Say that all computing with the acquired unit was issued."""
        if self._live is not None:
            self._retire(self._live)
            self._live = None
            self._prefetch()

    def reset(self) -> None:
        """Forget what is in the ring, after computing was broken off."""
        for slot in self._waiting:
            self._stream.wait(slot.event)
        self._waiting.clear()
        self._used.clear()
        self._live = None
        self._running = None
        self._write = 0
        self._begin = self._stream.mark()
        self._successors.forget_last()

    def _retire(self, slot: _Slot) -> None:
        self._used.append(_Slot(slot.unit, slot.start, slot.size, self._stream.mark()))

    def _prefetch(self) -> None:
        last = self._waiting[-1].unit if self._waiting else self._running
        unit = None if last is None else self._successors.after(last)
        while unit is not None and not self._holds(unit) and self._has_room(unit):
            self._issue(unit)
            unit = self._successors.after(unit)

    def _holds(self, unit: int) -> bool:
        is_live = self._live is not None and self._live.unit == unit
        return is_live or any(slot.unit == unit for slot in self._waiting)

    def _start(self, size: int) -> int:
        """Return where the next slot begins: units lie in one piece."""
        rest = self._size - self._write % self._size
        return self._write if size <= rest else self._write + rest

    def _has_room(self, unit: int) -> bool:
        size = self._sizes[unit]
        start = self._start(size)
        oldest = self._live or (self._waiting[0] if self._waiting else None)
        return oldest is None or start + size - oldest.start <= self._size

    def _issue(self, unit: int) -> None:
        size = self._sizes[unit]
        start = self._start(size)
        slot = _Slot(unit, start, size, None)
        # Bytes are overwritten once the computing that reads them is done; it is done in order, so
        # the last of the slots that lay there counts.
        event = self._begin
        overwritten = slot.end - self._size
        while self._used and self._used[0].start < overwritten:
            event = self._used[0].event
            if self._used[0].end > overwritten:
                break
            self._used.popleft()
        done = self._stream.copy(self._copies(unit, self._bytes(slot)), event)
        self._waiting.append(_Slot(unit, start, size, done))
        self._write = slot.end

    def _bytes(self, slot: _Slot) -> torch.Tensor:
        place = slot.start % self._size
        return self._buffer[place : place + slot.size]
