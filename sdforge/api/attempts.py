"""Wrong passwords per address: after some the address has to wait, so guessing is hopeless."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

# Somebody who mistypes gets further tries within the minute; a program gets 14,400 a day.
MOST_FAILURES = 10
WINDOW_SECONDS = 60.0
_MOST_ADDRESSES = 10_000


class Attempts:
    """Failed attempts of the last minute by address; safe to use from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # Address → (when its minute began, failures since).
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wait_seconds(self, address: str) -> float:
        """Return how long an address has to wait before its password is looked at; 0 for not."""
        with self._lock:
            began, count = self._failures.get(address, (0.0, 0))
            if count < MOST_FAILURES:
                return 0.0
            return max(began + WINDOW_SECONDS - self._clock(), 0.0)

    def failed(self, address: str) -> None:
        """Count a wrong password."""
        with self._lock:
            now = self._clock()
            began, count = self._failures.pop(address, (now, 0))
            if now - began >= WINDOW_SECONDS:
                began, count = now, 0
            self._failures[address] = (began, count + 1)
            if len(self._failures) > _MOST_ADDRESSES:
                self._failures.popitem(last=False)
