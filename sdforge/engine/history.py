"""The pictures on disk: found by words, marked, thrown away and brought back, imported.

Every saved picture has a row (`history_store.py`); this looks after the files. Clients name
pictures by number and never by path. A picture in the trash has moved to the data folder's `trash`
and comes back to where it was.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sdforge.core.errors import NotFound, QueueFull, StorageError
from sdforge.core.paths import Paths
from sdforge.core.settings import SettingsStore, write_atomically
from sdforge.engine.history_import import ImportStatus, found_pictures, output_folders
from sdforge.engine.history_store import HistoryStore, Picture, Search

log = logging.getLogger(__name__)

THUMBNAIL_SIZES = (64, 1024)
_DAY_SECONDS = 86400.0
_BATCH = 100


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What came of moving pictures: their numbers, and number → reason of those that stayed."""

    numbers: tuple[int, ...]
    failed: dict[int, str]


class History:
    """The history of one data folder; safe to use from any thread."""

    def __init__(self, store: HistoryStore, paths: Paths, settings: SettingsStore) -> None:
        self._store = store
        self._paths = paths
        self._settings = settings
        self._moving = threading.Lock()
        self._import = ImportStatus()
        self._importing: threading.Thread | None = None
        self._stopping = threading.Event()

    def search(self, search: Search) -> tuple[int, list[Picture]]:
        """Return (how many there are in all, those asked for), newest first.

        Raises:
            InvalidRequest: the words say only what must not be there.
        """
        return self._store.search(search)

    def get(self, number: int) -> Picture:
        """Return a picture; raises `NotFound`."""
        return self._store.get(number)

    def counts(self) -> dict[str, int]:
        """Return {"pictures", "favourites", "trash"}."""
        return self._store.counts()

    def set_favourite(self, number: int, is_favourite: bool) -> Picture:
        """Mark a picture, or take the mark away; raises `NotFound`."""
        self._store.get(number)
        self._store.update(number, is_favourite=is_favourite)
        return self._store.get(number)

    def data(self, number: int) -> tuple[bytes, str]:
        """Return (file, media type) of a picture, also of one in the trash.

        Raises:
            NotFound: there is none of this number, or its file is gone.
        """
        picture = self._store.get(number)
        try:
            return _place(picture).read_bytes(), picture.media_type
        except OSError as error:
            raise NotFound(
                f"the file of picture {number} cannot be read ({error.strerror})"
            ) from error

    def thumbnail(self, number: int, size: int) -> bytes:
        """Return a picture as WebP of at most `size` pixels along each side.

        Raises:
            NotFound: there is none of this number, or its file is gone.
            InvalidRequest: the file is no picture any more.
        """
        picture = self._store.get(number)
        cached = self._paths.cache / "thumbnails" / f"{picture.sha256}-{size}.webp"
        if picture.sha256 and cached.is_file():
            return cached.read_bytes()
        # Pillow is loaded with the first one, not at start.
        from sdforge.postprocess.thumbnail import thumbnail

        limit = self._settings.current.max_input_pixels
        made = thumbnail(self.data(number)[0], size, max_pixels=limit)
        if picture.sha256:
            write_atomically(cached, made)
        return made

    # --- the trash ---------------------------------------------------------------------------

    def trash(self, numbers: Iterable[int]) -> Moved:
        """Move pictures to the trash; those that are there stay there."""
        self.empty_trash()
        return self._each(numbers, self._trash_one)

    def restore(self, numbers: Iterable[int]) -> Moved:
        """Move pictures back to where they were; a name that is taken by now gets an ending."""
        return self._each(numbers, self._restore_one)

    def trash_copies(self) -> Moved:
        """Move all but the oldest of pictures of equal content to the trash."""
        return self.trash([picture.number for picture in self._store.copies()])

    def empty_trash(self, older_than_days: float | None = None) -> int:
        """Delete what is in the trash for good; return how many pictures went.

        Args:
            older_than_days: None for the setting `trash_keep_days`, in which 0 means never.
        """
        days = older_than_days
        if days is None:
            days = self._settings.current.trash_keep_days or None
        if days is None:
            return 0
        gone = 0
        with self._moving:
            for picture in self._store.trashed_before(time.time() - days * _DAY_SECONDS):
                try:
                    if picture.trash_path:
                        Path(picture.trash_path).unlink(missing_ok=True)
                except OSError as error:
                    log.warning("could not delete %s: %s", picture.trash_path, error.strerror)
                    continue
                self._store.remove(picture.number)
                gone += 1
        return gone

    def _each(self, numbers: Iterable[int], action: Callable[[Picture], None]) -> Moved:
        done, failed = [], {}
        with self._moving:
            for number in dict.fromkeys(numbers):
                try:
                    action(self._store.get(number))
                except (NotFound, StorageError) as error:
                    failed[number] = error.message
                else:
                    done.append(number)
        return Moved(numbers=tuple(done), failed=failed)

    def _trash_one(self, picture: Picture) -> None:
        if picture.trashed_at is not None:
            return
        source = Path(picture.path)
        target = self._paths.trash / f"{picture.number}-{source.name}"
        # Noted first: after a crash in between the file is found in either place.
        self._store.update(picture.number, trash_path=str(target), trashed_at=time.time())
        try:
            _move(source, target)
        except StorageError:
            self._store.update(picture.number, trash_path=None, trashed_at=None)
            raise

    def _restore_one(self, picture: Picture) -> None:
        if picture.trashed_at is None:
            return
        target = Path(picture.path)
        place = _place(picture)
        if place != target:
            target = _free_name(target)
            _move(place, target)
        self._store.update(
            picture.number, path=str(target), trash_path=None, trashed_at=None, is_missing=False
        )

    # --- import ------------------------------------------------------------------------------

    def start_import(self) -> ImportStatus:
        """Look through the output folders, on a thread of its own, for pictures not known yet.

        Pictures whose files are gone are left out of searches until they are back.

        Raises:
            QueueFull: one is running.
        """
        with self._moving:
            if self._importing is not None and self._importing.is_alive():
                raise QueueFull("an import is running; see /api/v1/history/import")
            self._import = ImportStatus(is_running=True)
            self._importing = threading.Thread(
                target=self._run_import, name="sdforge-import", daemon=True
            )
            self._importing.start()
        return self._import

    def import_status(self) -> ImportStatus:
        """Return how far the import is, or how the last one ended."""
        return self._import

    def close(self) -> None:
        """Stop an import."""
        self._stopping.set()
        if self._importing is not None:
            self._importing.join()

    def _run_import(self) -> None:
        try:
            self._look_through(output_folders(self._paths, self._settings.current))
            self._import = replace(self._import, is_running=False)
        except Exception as error:  # noqa: BLE001 - it ends, and says why
            log.exception("the import of pictures ended")
            self._import = replace(self._import, is_running=False, error=str(error))

    def _look_through(self, folders: Sequence[Path]) -> None:
        known = self._store.known()
        seen: set[str] = set()
        batch: list[Picture] = []
        for path, picture in found_pictures(folders, known, self._stopping):
            seen.add(path)
            now = self._import
            if path in known and known[path][2]:
                self._store.update(known[path][0], is_missing=False)
            if picture is None:
                skipped = now.skipped + (path not in known)
                self._import = replace(now, found=now.found + 1, skipped=skipped)
                continue
            self._import = replace(now, found=now.found + 1, added=now.added + 1)
            batch.append(picture)
            if len(batch) >= _BATCH:
                self._store.add(batch)
                batch = []
        self._store.add(batch)
        if not self._stopping.is_set():
            self._note_missing(known, seen)

    def _note_missing(self, known: dict[str, tuple[int, int, bool]], seen: set[str]) -> None:
        for path, (number, _, is_missing) in known.items():
            if path not in seen and not is_missing and not Path(path).exists():
                self._store.update(number, is_missing=True)
                self._import = replace(self._import, missing=self._import.missing + 1)


def _place(picture: Picture) -> Path:
    """Return where a picture's file lies now."""
    if picture.trash_path is not None and Path(picture.trash_path).exists():
        return Path(picture.trash_path)
    return Path(picture.path)


def _move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)
    except OSError as error:
        raise StorageError(f"could not move {source}: {error.strerror or error}") from error


def _free_name(path: Path) -> Path:
    """Return a name that no file has: the path's own, or one with an ending."""
    candidate, number = path, 1
    while candidate.exists():
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return candidate
