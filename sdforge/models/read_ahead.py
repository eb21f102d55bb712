"""A checkpoint that is read while another one works, on a thread of its own.

Fills memory that the store has set aside for it (`HostStore.reserve`) and touches nothing else:
no store, no device. The model thread starts it, takes what is ready, and gives back what nobody
came for. `prefetch.py` does what can be done where there is no room: it warms the system's cache.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from sdforge.core.errors import SdforgeError
from sdforge.core.result import ModelIdentity
from sdforge.memory.component import Component
from sdforge.memory.pressure import HostMemory, read_host_memory
from sdforge.models.content import Content
from sdforge.models.wanted import PlannedPart, Wanted
from sdforge.models.weights import load_component, warm_mapped

log = logging.getLogger(__name__)


class _Stopped(Exception):
    """Nobody wants it any more, or the machine is short of memory."""


class ReadAhead:
    """One checkpoint on its way into memory, from the moment this is made."""

    def __init__(
        self,
        wanted: Wanted,
        parts: Mapping[str, PlannedPart],
        held: Mapping[str, Content],
        identify: Callable[[], Future[ModelIdentity]],
        *,
        read_memory: Callable[[], HostMemory] = read_host_memory,
    ) -> None:
        """Begin to read.

        Args:
            wanted: which checkpoint.
            parts: how to read it; those without a plan are in memory already.
            held: content of the components that parts look like, by key; they are compared.
            identify: begins to hash the files, once their pages are at hand.
            read_memory: says how much main memory there is.
        """
        self.wanted = wanted
        self.total_bytes = sum(part.plan.file_bytes for part in parts.values() if part.plan)
        self.done_bytes = 0
        # Which held component a part turned out to be, by role.
        self.equal: dict[str, str] = {}
        self.identity: Future[ModelIdentity] | None = None
        self._identify = identify
        self._parts = parts
        self._held = held
        self._read_memory = read_memory
        self._ready: dict[str, Component] = {}
        self._stop = threading.Event()
        # A daemon: leaving the program must not wait for gigabytes to be read.
        self._thread = threading.Thread(target=self._work, name="sdforge-read-ahead", daemon=True)
        self._thread.start()

    @property
    def key(self) -> str:
        """What the store will know the checkpoint by."""
        return self.wanted.key

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; return whether it has come."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def ready(self) -> frozenset[str]:
        """The keys of what was read and not taken yet; for after the end."""
        return frozenset(self._ready)

    def take(self, key: str) -> Component | None:
        """Return a component that was read, once; for after the end."""
        return self._ready.pop(key, None)

    def give_up(self) -> list[Component]:
        """Stop reading; return what was read and not taken, for the caller to release."""
        self._stop.set()
        self._thread.join()
        left = list(self._ready.values())
        self._ready.clear()
        return left

    def _work(self) -> None:
        name = self.wanted.info.relative
        try:
            for role, part in self._parts.items():
                if part.alike:
                    self._compare(role, part)
                elif part.plan is not None:
                    self._ready[part.key] = load_component(
                        part.plan,
                        name=self.wanted.headers[role].path.stem,
                        fingerprint=part.key,
                        on_progress=self._count,
                    )
                    # Mapped weights cost no memory of ours, but their file has to be read too.
                    warm_mapped(part.plan, self._go_on)
            self.identity = self._identify()
        except _Stopped:
            log.info("%s is not read ahead any further", name)
        except (SdforgeError, OSError) as error:
            # The load that comes says what is wrong with the file.
            log.info("%s is not read ahead: %s", name, error)
        except Exception:  # the same: it must not end more than this attempt
            log.exception("%s could not be read ahead", name)

    def _compare(self, role: str, part: PlannedPart) -> None:
        """Find out which held component a part equals, which takes as long as reading it."""
        for key in part.alike:
            self._go_on(0)
            if part.content is not None and part.content.is_same(self._held[key]):
                self.equal[role] = key
                return

    def _count(self, count: int) -> None:
        self.done_bytes += count
        self._go_on(count)

    def _go_on(self, count: int) -> None:
        if self._stop.is_set():
            raise _Stopped
        memory = self._read_memory()
        if memory.available < memory.low_mark:
            raise _Stopped
