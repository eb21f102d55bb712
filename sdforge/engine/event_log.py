"""The events of one job: numbered, bounded, replayed to late listeners and then live.

Readers pull from the log at their own pace, each with its own position, so a slow or dead reader
costs no memory; what the bound pushed out before they came they miss. Of previews only the newest
is kept. Numbers therefore rise, but may have gaps.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

from sdforge.core.events import Event, JobEvent, ModelLoading, PreviewReady, StepDone

# 150 steps × 3 batches fit whole. An entry takes some 500 bytes, so the logs of 100 finished jobs
# stay below 25 MB.
MAX_EVENTS = 500
Kinds = tuple[type[Event], ...]


class EventLog:
    """The events of one job; safe to use from any thread."""

    def __init__(self, job_id: str, limit: int = MAX_EVENTS) -> None:
        self._job_id = job_id
        self._limit = limit
        self._changed = threading.Condition()
        self._events: OrderedDict[int, JobEvent] = OrderedDict()
        self._droppable: deque[int] = deque()
        self._preview: int | None = None
        self._last = 0
        self._ended = False
        self._listeners: list[tuple[Callable[[], None], Kinds | None]] = []

    @property
    def ended(self) -> bool:
        """Whether no further event will come."""
        return self._ended

    def append(self, event: Event) -> None:
        """Number and keep an event and wake whoever waits; after `end` it is ignored."""
        with self._changed:
            if self._ended:
                return
            self._last += 1
            self._events[self._last] = JobEvent(
                job_id=self._job_id, sequence=self._last, event=event
            )
            if isinstance(event, PreviewReady):
                self._drop_preview()
                self._preview = self._last
            elif isinstance(event, (StepDone, ModelLoading)):
                self._droppable.append(self._last)
            if len(self._events) > self._limit:
                self._make_room()
            self._changed.notify_all()
        self._call_listeners(event)

    def end(self) -> None:
        """Let readers finish; the preview is dropped, finished pictures replace it."""
        with self._changed:
            self._ended = True
            self._drop_preview()
            self._changed.notify_all()
        self._call_listeners()

    def next(self, after: int, timeout: float | None = None) -> JobEvent | None:
        """Return the first event numbered above `after`, waiting up to `timeout` seconds for it.

        None means that the log ended, or that the time is over.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                for sequence in range(self._start(after) + 1, self._last + 1):
                    if sequence in self._events:
                        return self._events[sequence]
                left = None if deadline is None else deadline - time.monotonic()
                if self._ended or (left is not None and left <= 0):
                    return None
                self._changed.wait(left)

    def add_listener(self, listener: Callable[[], None], kinds: Kinds | None = None) -> None:
        """Call `listener` after every change, on the thread that made it.

        With `kinds` only after events of these classes, and at the end.
        """
        with self._changed:
            self._listeners.append((listener, kinds))

    def remove_listener(self, listener: Callable[[], None]) -> None:
        """Stop calling `listener`."""
        with self._changed:
            self._listeners = [one for one in self._listeners if one[0] != listener]

    def _start(self, after: int) -> int:
        # A position beyond the end comes from before a restart of the server, when the job had
        # another log: start over.
        return max(after, 0) if after <= self._last else 0

    def _drop_preview(self) -> None:
        if self._preview is not None:
            self._events.pop(self._preview, None)
            self._preview = None

    def _make_room(self) -> None:
        if self._droppable:
            self._events.pop(self._droppable.popleft(), None)
        else:
            dropped, _ = self._events.popitem(last=False)
            if dropped == self._preview:
                self._preview = None

    def _call_listeners(self, event: Event | None = None) -> None:
        for listener, kinds in tuple(self._listeners):
            if event is not None and kinds is not None and not isinstance(event, kinds):
                continue
            try:
                listener()
            except RuntimeError:
                # An asyncio loop that is closed: its reader is gone.
                self.remove_listener(listener)


class Subscription:
    """A reader's place in a job's events, used like a `queue.Queue`.

    `notify` is called on other threads whenever there may be something to get, so that asyncio code
    can do `loop.call_soon_threadsafe(event.set)` there; with `kinds` only when an event of these
    classes has come, or the end. A thread that is woken at each step slows the one that samples.
    """

    def __init__(
        self,
        log: EventLog,
        after: int = 0,
        notify: Callable[[], None] | None = None,
        kinds: Kinds | None = None,
    ) -> None:
        self._log = log
        self._after = after
        self._notify = notify
        if notify is not None:
            log.add_listener(notify, kinds)

    @property
    def ended(self) -> bool:
        """Whether all events have been read and none will come."""
        return self._log.ended and self._log.next(self._after, 0) is None

    def __iter__(self) -> Iterator[JobEvent]:
        """Yield events, waiting for each, until the job's events end."""
        while (event := self._log.next(self._after)) is not None:
            self._after = event.sequence
            yield event

    def get(self, block: bool = True, timeout: float | None = None) -> JobEvent:
        """Return the next event.

        Raises:
            queue.Empty: none came within `timeout` seconds, or the job's events ended.
        """
        event = self._log.next(self._after, timeout if block else 0)
        if event is None:
            raise queue.Empty
        self._after = event.sequence
        return event

    def get_nowait(self) -> JobEvent:
        """Return the next event or raise `queue.Empty` at once."""
        return self.get(block=False)

    def close(self) -> None:
        """Stop being notified."""
        if self._notify is not None:
            self._log.remove_listener(self._notify)
