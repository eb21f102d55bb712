"""SHA-256 of model files, remembered between runs.

Reading gigabytes takes seconds, so a hash is kept with the file's path, size and modification time
in one small JSON file below the cache folder. Losing that file loses nothing but time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from sdforge.core.errors import MissingModel, StorageError
from sdforge.core.settings import write_atomically
from sdforge.models.files import folder_files

log = logging.getLogger(__name__)

_VERSION = 1
_CHUNK_BYTES = 4 * 1024 * 1024
# A1111's first kind of hash: 64 KiB from 1 MiB on.
_LEGACY_OFFSET, _LEGACY_BYTES = 0x100000, 0x10000


@dataclass(frozen=True)
class Stamp:
    """What tells whether a file changed since it was looked at."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Return the stamp of a file as it is now, or of all files of a model's folder.

        Raises OSError.
        """
        stat = path.stat()
        if S_ISDIR(stat.st_mode):
            stats = [file.stat() for file in folder_files(path)]
            size, newest = sum(one.st_size for one in stats), [one.st_mtime_ns for one in stats]
            return cls(str(path.resolve()), size, max(newest, default=0))
        return cls(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


class HashCache:
    """SHA-256 by stamp; safe to use from several threads."""

    def __init__(self, file: Path, *, digest: Callable[[Path], str] | None = None) -> None:
        """Use `file`, which is read when first needed.

        Args:
            file: where hashes are kept.
            digest: computes one, raising OSError; SHA-256 of the whole file when None.
        """
        self._file = file
        self._digest = digest or file_sha256
        self._lock = threading.Lock()
        self._hashes: dict[str, tuple[int, int, str]] | None = None

    def get(self, stamp: Stamp) -> str | None:
        """Return the remembered hash of a file, or None."""
        with self._lock:
            size, mtime_ns, sha256 = self._loaded().get(stamp.path, (-1, -1, ""))
        return sha256 if (size, mtime_ns) == (stamp.size, stamp.mtime_ns) else None

    def compute(self, path: Path) -> str:
        """Return the SHA-256 of a file in hex, from memory or by reading all of it.

        Raises:
            MissingModel: the file cannot be read.
        """
        try:
            stamp = Stamp.of(path)
            known = self.get(stamp)
            if known is not None:
                return known
            sha256 = self._digest(path)
            is_settled = Stamp.of(path) == stamp
        except OSError as error:
            raise MissingModel(f"{path} cannot be read: {error.strerror or error}") from error
        if is_settled:
            self._remember(stamp, sha256)
        return sha256

    def learn(self, path: Path, sha256: str) -> None:
        """Remember the hash of a file as it is now; whoever wrote it knows it without reading."""
        try:
            self._remember(Stamp.of(path), sha256)
        except OSError as error:
            log.warning("the hash of %s is not kept: %s", path, error)

    def _remember(self, stamp: Stamp, sha256: str) -> None:
        with self._lock:
            # Read again: another server may share the folder.
            hashes = {**self._loaded(), **self._read()}
            hashes[stamp.path] = (stamp.size, stamp.mtime_ns, sha256)
            self._hashes = hashes
            text = json.dumps({"version": _VERSION, "sha256": hashes}, indent=1, ensure_ascii=False)
            try:
                write_atomically(self._file, text.encode())
            except StorageError as error:
                log.warning("the hash of %s is not kept: %s", stamp.path, error)

    def _loaded(self) -> dict[str, tuple[int, int, str]]:
        if self._hashes is None:
            self._hashes = self._read()
        return self._hashes

    def _read(self) -> dict[str, tuple[int, int, str]]:
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            if content["version"] != _VERSION:
                return {}
            return {str(path): _row(row) for path, row in content["sha256"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("%s cannot be read and is made anew: %s", self._file, error)
            return {}


def legacy_hash(path: Path) -> str | None:
    """Return A1111's old model hash (8 hex digits), None when the file cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(_LEGACY_OFFSET)
            return hashlib.sha256(file.read(_LEGACY_BYTES)).hexdigest()[:8]
    except OSError:
        return None


def _row(row: Any) -> tuple[int, int, str]:
    size, mtime_ns, sha256 = row
    return int(size), int(mtime_ns), str(sha256)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a whole file, or of a model's folder, in hex; raises OSError.

    That of a folder is over the names and the hashes of the files that make it up, in order.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for file in folder_files(path):
            name = file.relative_to(path).as_posix()
            digest.update(f"{name} {file_sha256(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as opened:
        while piece := opened.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()
