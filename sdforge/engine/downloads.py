"""The downloads of one server: what is wanted, what arrives, what went wrong; one at a time."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sdforge.core.errors import (
    Cancelled,
    InvalidRequest,
    NotFound,
    QueueFull,
    SdforgeError,
    StorageError,
)
from sdforge.core.hub import Hub, HubFile, parse_hub_file
from sdforge.core.paths import Paths
from sdforge.engine.download import download

if TYPE_CHECKING:
    from sdforge.engine.engine import Engine
    from sdforge.models.library import Library

log = logging.getLogger(__name__)

_MOST_WAITING = 20
_KEPT = 50
KINDS = ("checkpoint", "vae", "text_encoder", "lora", "embedding", "controlnet")


@dataclass(frozen=True, kw_only=True)
class Download:
    """One download; `state` is 'waiting', 'running', 'done', 'failed' or 'cancelled'."""

    id: int
    file: HubFile
    kind: str
    target: Path
    state: str = "waiting"
    done_bytes: int = 0
    total_bytes: int = 0
    error: str = ""
    stop: threading.Event = field(default_factory=threading.Event, compare=False)

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state not in ("waiting", "running")


class Downloads:
    """Fetches files of a hub into the model folders, in order, on a thread of its own."""

    def __init__(
        self, paths: Paths, hub: Hub, on_arrival: Callable[[Path, str], None] | None = None
    ) -> None:
        """Fetch nothing yet; `on_arrival` hears of each new file and its hash."""
        self.hub = hub
        self._paths = paths
        self._on_arrival = on_arrival or (lambda path, sha256: None)
        self._ids = itertools.count(1)
        self._all: dict[int, Download] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def all(self) -> list[Download]:
        """Return all downloads, oldest first."""
        with self._changed:
            return [*self._all.values()]

    def add(self, text: str, kind: str = "checkpoint") -> Download:
        """Queue the file that a text names.

        Raises:
            InvalidRequest: it names none, or the folder has a file of its name.
            QueueFull: many wait already.
        """
        if kind not in KINDS:
            raise InvalidRequest("kind", kind, ", ".join(KINDS))
        file = parse_hub_file(text, "file", self.hub.endpoint)
        target = self.folder(kind) / file.name
        with self._changed:
            open_ones = [one for one in self._all.values() if not one.is_over]
            if target.exists() or any(one.target == target for one in open_ones):
                allowed = f"a file whose name {target.parent.name} does not have yet"
                raise InvalidRequest("file", file.name, allowed)
            if len(open_ones) >= _MOST_WAITING:
                raise QueueFull(f"{_MOST_WAITING} downloads wait already; wait or cancel one")
            added = Download(id=next(self._ids), file=file, kind=kind, target=target)
            self._all[added.id] = added
            self._forget_old()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="sdforge-downloads", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()
        return added

    def cancel(self, number: int) -> Download:
        """Stop a download, or take it off the list when it is over; raises `NotFound`."""
        with self._changed:
            found = self._all.get(number)
            if found is None:
                raise NotFound(f"there is no download {number}")
            if found.is_over:
                return self._all.pop(number)
            found.stop.set()
            if found.state == "waiting":
                found = self._all[number] = replace(found, state="cancelled")
            self._changed.notify_all()
        return found

    def wait(self, number: int) -> Download:
        """Return a download when it is over; blocks."""
        with self._changed:
            found = self._all[number]
            while not found.is_over:
                self._changed.wait()
                # One that is over may be taken off the list before anybody looks.
                found = self._all.get(number, replace(found, state="cancelled"))
            return found

    def inputs_in_use(self) -> set[str]:
        """Return none: downloads need no pictures."""
        return set()

    def close(self) -> None:
        """Stop what runs; what has arrived is kept for the next start."""
        with self._changed:
            self._is_closed = True
            for found in [*self._all.values()]:
                found.stop.set()
                if found.state == "waiting":
                    self._all[found.id] = replace(found, state="cancelled")
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout=5)

    def folder(self, kind: str) -> Path:
        """Return where files of a kind are put: the first folder that is searched for them."""
        folders = {
            "checkpoint": self._paths.checkpoints,
            "vae": self._paths.vaes,
            "text_encoder": self._paths.text_encoders,
            "lora": self._paths.loras,
            "embedding": self._paths.embeddings,
            "controlnet": self._paths.controlnets,
        }
        return folders[kind][0]

    def _forget_old(self) -> None:
        over = [one.id for one in self._all.values() if one.is_over]
        for number in over[: max(0, len(self._all) - _KEPT)]:
            del self._all[number]

    def _run(self) -> None:
        while (found := self._next()) is not None:
            self._set(found.id, state="running")
            try:
                name = download(
                    found.file, found.target, self.hub, self._progress_of(found.id), found.stop
                )
                self._on_arrival(found.target, name)
                log.info("%s is in %s", found.file, found.target.parent)
                self._set(found.id, state="done")
            except Cancelled:
                self._set(found.id, state="cancelled")
            except SdforgeError as error:
                log.warning("%s", error.message)
                self._set(found.id, state="failed", error=error.message)
            except Exception as error:
                log.exception("a download failed")
                fault = StorageError(f"{found.file} could not be fetched: {error}")
                self._set(found.id, state="failed", error=fault.message)

    def _next(self) -> Download | None:
        with self._changed:
            while not self._is_closed:
                for found in self._all.values():
                    if found.state == "waiting":
                        return found
                self._changed.wait()
        return None

    def _progress_of(self, number: int) -> Callable[[int, int], None]:
        return lambda done, total: self._set(number, done_bytes=done, total_bytes=total)

    def _set(self, number: int, **changes: object) -> None:
        with self._changed:
            self._all[number] = replace(self._all[number], **changes)  # type: ignore[arg-type]
            self._changed.notify_all()


def downloads_of(engine: Engine, paths: Paths, flags: Mapping[str, Any]) -> Downloads:
    """Return the downloads of a server, closed with its engine; new files are listed at once."""

    def arrived(path: Path, name: str) -> None:
        library = cast("Library", engine.library)
        if len(name) == 64:
            library.learn_hash(path, name)
        library.refresh()

    made = Downloads(paths, Hub.from_flags(flags, os.environ), arrived)
    engine.attach(made)
    return made
