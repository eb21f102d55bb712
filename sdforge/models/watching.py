"""Model files that come and go are seen without anybody asking: by the times of their folders.

A folder's time changes when something in it is made, renamed or removed, so that looking costs one
question to the file system per folder, not per file. Files that could not be read are looked at
too: they may still be being written. No torch.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from sdforge.core.errors import SdforgeError
from sdforge.models.library import Library

log = logging.getLogger(__name__)

PERIOD_SECONDS = 2.0
# Of the time that passes; folders on slow network drives are looked at less often.
_MOST_SHARE = 0.02

State = Mapping[str, tuple[int, int]]


def folder_state(roots: Iterable[Path], files: Iterable[Path] = ()) -> State:
    """Return (time in ns, size) by path of all folders below `roots`, and of single files.

    Links are followed, each folder once; what begins with a dot is left out. What is not there is
    left out as well.
    """
    found: dict[str, tuple[int, int]] = {}
    waiting = [str(root) for root in roots]
    while waiting:
        folder = waiting.pop()
        try:
            real = os.path.realpath(folder)
            if real in found:
                continue
            found[real] = (Path(real).stat().st_mtime_ns, 0)
            with os.scandir(real) as entries:
                waiting += [
                    entry.path
                    for entry in entries
                    if not entry.name.startswith(".") and entry.is_dir()
                ]
        except OSError:
            continue
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            continue
        found[str(file)] = (stat.st_mtime_ns, stat.st_size)
    return found


class ModelWatcher:
    """Refreshes a library when its folders changed; `start` does so every few seconds."""

    def __init__(self, library: Library, period: float = PERIOD_SECONDS) -> None:
        """Look at nothing yet."""
        self._library = library
        self._period = period
        self._state: State | None = None
        self._ended = threading.Event()

    def look(self) -> bool:
        """Refresh the library if anything changed since the last look; return whether it did.

        The first look only takes note.
        """
        roots, files = self._library.watched()
        state = folder_state(roots, files)
        before, self._state = self._state, state
        if before is None or state == before:
            return False
        self._library.refresh_all()
        # What is unreadable now is watched from now on.
        roots, files = self._library.watched()
        self._state = {**state, **folder_state((), files)}
        return True

    def start(self) -> None:
        """Look again and again, on a thread of its own."""
        threading.Thread(target=self._run, name="sdforge-watch", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._ended.set()

    def inputs_in_use(self) -> set[str]:
        """Return nothing: watching needs no pictures."""
        return set()

    def _run(self) -> None:
        pause = 0.0
        while not self._ended.wait(pause):
            began = time.perf_counter()
            try:
                if self.look():
                    log.info("model folders changed: %d checkpoints",
                             len(self._library.checkpoints()))  # fmt: skip
            except (OSError, SdforgeError) as error:
                log.warning("model folders cannot be looked at: %s", error)
            spent = time.perf_counter() - began
            pause = max(self._period, spent / _MOST_SHARE)
