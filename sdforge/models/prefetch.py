"""Reading a checkpoint's file ahead, on a thread of its own, into the system's cache of files.

Whoever loads it next finds its pages in memory. It only warms that cache, which the system drops
when it needs the room, so nothing has to be given back and nothing here touches the store.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from sdforge.memory.pressure import HostMemory, read_host_memory

log = logging.getLogger(__name__)

_PIECE_BYTES = 8 * 1024 * 1024


class Prefetch:
    """One read-ahead, under way from the moment it is made."""

    def __init__(
        self, path: Path, *, read_memory: Callable[[], HostMemory] = read_host_memory
    ) -> None:
        """Begin to read `path`."""
        self.path = path
        self.read_bytes = 0
        self._read_memory = read_memory
        self._stop = threading.Event()
        # A daemon: leaving the program must not wait for gigabytes to be read.
        self._thread = threading.Thread(target=self._work, name="sdforge-read-ahead", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Stop reading; what is in the cache stays there."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; return whether it has come."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        buffer = bytearray(_PIECE_BYTES)
        try:
            with self.path.open("rb", buffering=0) as file:
                while not self._stop.is_set():
                    memory = self._read_memory()
                    # Cached pages are available memory; beyond it they would drive each other out.
                    if memory.available - self.read_bytes < memory.high_mark:
                        log.info("reading ahead stops at %d MB", self.read_bytes >> 20)
                        return
                    count = file.readinto(buffer)
                    if not count:
                        return
                    self.read_bytes += count
        except OSError as error:
            # The load that comes says what is wrong with the file.
            log.info("%s is not read ahead: %s", self.path.name, error)
