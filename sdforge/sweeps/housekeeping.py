"""What sweeps need beside cells: those who want to hear of changes, and old files to be removed."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

log = logging.getLogger(__name__)

_DAY_SECONDS = 86400.0

Listener = Callable[[], None]


class Listeners:
    """Who is to be called when a sweep changes; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, list[Listener]] = {}

    def add(self, sweep_id: str, listener: Listener) -> None:
        """Call `listener`, on other threads, whenever a sweep changes."""
        with self._lock:
            self._known.setdefault(sweep_id, []).append(listener)

    def remove(self, sweep_id: str, listener: Listener) -> None:
        """Stop calling `listener`."""
        with self._lock:
            known = self._known.get(sweep_id, [])
            if listener in known:
                known.remove(listener)
            if not known:
                self._known.pop(sweep_id, None)

    def tell(self, sweep_id: str) -> None:
        """Call those of one sweep."""
        with self._lock:
            found = list(self._known.get(sweep_id, ()))
        for listener in found:
            try:
                listener()
            except RuntimeError:
                log.debug("a listener's event loop is closed")

    def tell_all(self) -> None:
        """Call those of all sweeps."""
        with self._lock:
            names = list(self._known)
        for name in names:
            self.tell(name)


def clean(folder: Path, kept: Collection[str], keep_days: float) -> None:
    """Remove old pictures of sweeps that went to no output folder.

    Args:
        folder: of all sweeps; one folder each.
        kept: names of those that stay in any case.
        keep_days: older ones go.
    """
    oldest = time.time() - keep_days * _DAY_SECONDS
    if not folder.is_dir():
        return
    for found in folder.iterdir():
        try:
            if found.name not in kept and found.stat().st_mtime < oldest:
                shutil.rmtree(found)
        except OSError as error:
            log.warning("could not remove %s: %s", found, error.strerror)
