"""Sweeps on disk: manifests, the cells' requests and states, in one SQLite file of their own.

In WAL mode with synchronous=NORMAL, as the jobs are: what is committed survives `kill -9`. One
server at a time is what the jobs' file makes sure of.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdforge.core.errors import InvalidRequest, StorageError
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import Settings
from sdforge.sweeps.manifest import Cell, CellStatus, GridFile, Manifest, Sweep, SweepStatus

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_LOCK_SECONDS = 5.0

_SCHEMA = """
CREATE TABLE sweeps (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT NOT NULL UNIQUE,
    status      TEXT NOT NULL,
    revision    INTEGER NOT NULL,
    finished_at REAL,
    grid        TEXT,
    waiting     TEXT NOT NULL,
    manifest    TEXT NOT NULL
);
CREATE INDEX sweeps_by_status ON sweeps (status, number);
CREATE TABLE cells (
    sweep   INTEGER NOT NULL REFERENCES sweeps (number),
    number  INTEGER NOT NULL,
    same_as INTEGER,
    request TEXT,
    state   TEXT NOT NULL,
    PRIMARY KEY (sweep, number)
) WITHOUT ROWID;
"""


class SweepStore:
    """All sweeps ever accepted, in the order of acceptance; safe to use from any thread."""

    def __init__(self, path: Path) -> None:
        """Open or create the file; one that is no database is put aside.

        Raises:
            StorageError: it cannot be written, or comes from a newer version.
        """
        self._path = path
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = self._open()
        except sqlite3.OperationalError as error:
            raise self._error(error) from error
        except OSError as error:
            raise StorageError(f"could not create {path.parent}: {error.strerror}") from error
        except sqlite3.DatabaseError as error:
            aside = path.with_name(f"{path.name}.unreadable-{int(time.time())}")
            log.warning("%s cannot be read (%s); it is kept as %s", path, error, aside.name)
            path.rename(aside)
            self._connection = self._open()

    def add(
        self,
        sweep: Sweep,
        waiting: Sequence[int],
        requests: Sequence[GenerationRequest | None],
    ) -> None:
        """Store a new sweep with its cells' requests; None where another cell has it.

        Raises:
            InvalidRequest: the id is taken, or something in it is not JSON.
            StorageError: the disk is full or not writable.
        """
        try:
            manifest = json.dumps(sweep.manifest.to_json())
            rows = [
                (
                    cell.index,
                    cell.same_as,
                    json.dumps(request.to_json()) if request is not None else None,
                    json.dumps(cell.to_json()),
                )
                for cell, request in zip(sweep.cells, requests, strict=True)
            ]
        except TypeError as error:
            raise InvalidRequest("override_settings", str(error), "plain JSON values") from error
        try:
            with self._transaction() as connection:
                number = connection.execute(
                    "INSERT INTO sweeps (id, status, revision, waiting, manifest) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (sweep.id, sweep.status.value, 0, json.dumps(list(waiting)), manifest),
                ).lastrowid
                connection.executemany(
                    "INSERT INTO cells (sweep, number, same_as, request, state) "
                    "VALUES (?, ?, ?, ?, ?)",
                    [(number, *row) for row in rows],
                )
        except sqlite3.IntegrityError as error:
            raise InvalidRequest("id", sweep.id, "an id that no other sweep has") from error

    def update(
        self, sweep: Sweep, changed: Sequence[Cell], waiting: Sequence[int] | None = None
    ) -> None:
        """Store where a sweep and some of its cells stand.

        Args:
            sweep: its status, revision and grid count.
            changed: the cells to store.
            waiting: the cells to draw in their order, where that has changed; cells that have been
                drawn since need not be taken out of it.

        Raises:
            StorageError: the disk is full or not writable.
        """
        grid = json.dumps(asdict(sweep.grid)) if sweep.grid else None
        with self._transaction() as connection:
            connection.execute(
                "UPDATE sweeps SET status = ?, revision = ?, finished_at = ?, grid = ?, "
                "waiting = coalesce(?, waiting) WHERE id = ?",
                (
                    sweep.status.value,
                    sweep.revision,
                    sweep.finished_at,
                    grid,
                    None if waiting is None else json.dumps(list(waiting)),
                    sweep.id,
                ),
            )
            connection.executemany(
                "UPDATE cells SET state = ? WHERE number = ? "
                "AND sweep = (SELECT number FROM sweeps WHERE id = ?)",
                [(json.dumps(cell.to_json()), cell.index, sweep.id) for cell in changed],
            )

    def get(self, sweep_id: str) -> tuple[Sweep, list[int]] | None:
        """Return a sweep and the numbers of the cells that wait, in order; None without one."""
        found = self._select("WHERE id = ?", (sweep_id,))
        return found[0] if found else None

    def unfinished(self) -> list[tuple[Sweep, list[int]]]:
        """Return the sweeps that were running when the last server stopped, oldest first."""
        return self._select("WHERE status = ? ORDER BY number", (SweepStatus.RUNNING.value,))

    def newest(self, limit: int) -> list[str]:
        """Return the ids of the newest sweeps, newest first."""
        rows = self._rows("SELECT id FROM sweeps ORDER BY number DESC LIMIT ?", (limit,))
        return [row["id"] for row in rows]

    def request(self, sweep_id: str, index: int) -> GenerationRequest:
        """Return what a cell draws.

        Raises:
            StorageError: it is not there.
        """
        rows = self._rows(
            "SELECT request FROM cells WHERE number = ? "
            "AND sweep = (SELECT number FROM sweeps WHERE id = ?)",
            (index, sweep_id),
        )
        if not rows or rows[0]["request"] is None:
            raise StorageError(f"cell {index} of {sweep_id} has no request in {self._path}")
        return GenerationRequest.from_json(json.loads(rows[0]["request"]))

    def close(self) -> None:
        """Close the file; later calls raise `StorageError`."""
        with self._lock:
            self._connection.close()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise StorageError(
                    f"{self._path} was written by a newer version (schema {version}, this one "
                    f"knows {SCHEMA_VERSION}); use that version or another data folder"
                )
            if version == 0:
                script = f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
                connection.executescript(script)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.IntegrityError:
                self._connection.execute("ROLLBACK")
                raise
            except sqlite3.Error as error:
                self._roll_back()
                raise self._error(error) from error

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            log.warning("%s: a transaction could not be rolled back", self._path)

    def _error(self, error: sqlite3.Error) -> StorageError:
        return StorageError(f"could not use {self._path}: {error}")

    def _rows(self, query: str, values: Sequence[Any]) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._error(error) from error

    def _select(self, clause: str, values: Sequence[Any]) -> list[tuple[Sweep, list[int]]]:
        found = []
        for row in self._rows(f"SELECT * FROM sweeps {clause}", values):
            try:
                sweep = self._read(row)
                order = json.loads(row["waiting"])
                states = [cell.status for cell in sweep.cells]
                found.append((sweep, [i for i in order if states[i] is CellStatus.WAITING]))
            except (ValueError, TypeError, KeyError, IndexError) as error:
                log.warning("sweep %s cannot be read and is left out: %r", row["id"], error)
        return found

    def _read(self, row: sqlite3.Row) -> Sweep:
        values = json.loads(row["manifest"])
        cells = self._rows(
            "SELECT number, same_as, state FROM cells WHERE sweep = ? ORDER BY number",
            (row["number"],),
        )
        return Sweep(
            manifest=Manifest.from_json(values, _settings(values["settings"])),
            cells=tuple(
                Cell.from_json(cell["number"], cell["same_as"], json.loads(cell["state"]))
                for cell in cells
            ),
            status=SweepStatus(row["status"]),
            revision=row["revision"],
            finished_at=row["finished_at"],
            grid=GridFile(**json.loads(row["grid"])) if row["grid"] else None,
        )


def _settings(values: dict[str, Any]) -> Settings:
    settings = Settings()
    for key, value in values.items():
        try:
            settings = settings.with_overrides({key: value})
        except InvalidRequest as error:
            log.warning("stored setting is left at its default: %s", error)
    return settings
