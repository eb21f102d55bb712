"""One SQLite file and the way to it: opened alone, brought up to date, one writer at a time.

Writes go through one connection under a lock, in WAL mode with synchronous=NORMAL: what was
committed survives `kill -9` of the process; a power cut may lose the last moments but cannot damage
the file. `store.py` (jobs) and `history_store.py` (pictures) share one.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sdforge.core.errors import StorageError
from sdforge.engine.database_schema import MIGRATIONS

log = logging.getLogger(__name__)

# Long enough for a server that is just stopping to let go of the file.
_LOCK_SECONDS = 5.0


class Database:
    """An open file; safe to use from any thread."""

    def __init__(self, path: Path) -> None:
        """Open or create the file; one that is no database is put aside.

        Raises:
            StorageError: another server uses the file, it comes from a newer version, or it cannot
                be written.
        """
        self.path = path
        self.lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"could not create {path.parent}: {error.strerror}") from error
        try:
            self._connection = self._open()
        except sqlite3.OperationalError as error:
            raise self._storage_error(error) from error
        except sqlite3.DatabaseError as error:
            self._put_aside(error)
            self._connection = self._open()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the connection; all that is written through it counts, or nothing.

        Raises:
            StorageError: the disk is full or not writable.
            sqlite3.IntegrityError: a row is there already.
        """
        with self.lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.IntegrityError:
                raise
            except sqlite3.Error as error:
                raise self._storage_error(error) from error
            finally:
                self._roll_back()

    def select(
        self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[sqlite3.Row]:
        """Return the rows of a query.

        Raises:
            StorageError: the file cannot be read.
        """
        with self.lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise self._storage_error(error) from error

    def note(self, key: str) -> str | None:
        """Return a note that `set_note` left, or None."""
        rows = self.select("SELECT value FROM notes WHERE key = ?", (key,))
        return rows[0]["value"] if rows else None

    def set_note(self, key: str, value: str) -> None:
        """Keep a note for the next start."""
        with self.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, value))

    def close(self) -> None:
        """Close the file; later calls raise `StorageError`."""
        with self.lock:
            self._connection.close()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        try:
            # Exclusive: a second server on the same folder would run the queued jobs twice and
            # take the running one for a crashed one. The system drops the lock with the process.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            # So that a row which takes another's place also takes its words out of the index.
            connection.execute("PRAGMA recursive_triggers = ON")
            connection.execute("BEGIN IMMEDIATE")
            self._bring_up_to_date(connection)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _bring_up_to_date(self, connection: sqlite3.Connection) -> None:
        newest = len(MIGRATIONS)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > newest:
            raise StorageError(
                f"{self.path} was written by a newer version (schema {version}, this one "
                f"knows {newest}); use that version or another data folder"
            )
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {newest}")

    def _put_aside(self, error: sqlite3.Error) -> None:
        stamp = f"unreadable-{int(time.time())}"
        log.warning("%s cannot be read (%s); starting an empty queue, the file is kept as %s.%s",
                    self.path, error, self.path.name, stamp)  # fmt: skip
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(part.with_name(f"{self.path.name}.{stamp}{suffix}"))

    def _roll_back(self) -> None:
        """End a transaction that did not reach its commit, or whose commit failed."""
        with suppress(sqlite3.ProgrammingError):  # the connection is closed
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _storage_error(self, error: sqlite3.Error) -> StorageError:
        if "locked" in str(error):
            return StorageError(f"{self.path} is in use by another server on this data folder")
        return StorageError(f"could not use {self.path}: {error}")
