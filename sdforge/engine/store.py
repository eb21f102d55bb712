"""Jobs on disk: one SQLite file that survives a crash of the server.

Only `queue.py` uses it. Writes go through one connection under a lock, in WAL mode with
synchronous=NORMAL: a committed job survives `kill -9` of the process; a power cut may lose the last
moments but cannot damage the file. Previews and events are not stored.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from sdforge.core.errors import InvalidRequest, StorageError
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import Settings
from sdforge.engine.job import (
    INTERRUPTED_ERROR,
    DuplicateJob,
    Job,
    JobError,
    JobImage,
    JobStatus,
    Progress,
)

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
# Long enough for a server that is just stopping to let go of the file.
_LOCK_SECONDS = 5.0

_SCHEMA = """
CREATE TABLE jobs (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT NOT NULL UNIQUE,
    status       TEXT NOT NULL,
    kind         TEXT NOT NULL,
    origin       TEXT NOT NULL,
    save_images  INTEGER NOT NULL,
    created_at   REAL NOT NULL,
    started_at   REAL,
    finished_at  REAL,
    request      TEXT NOT NULL,
    settings     TEXT NOT NULL,
    progress     TEXT NOT NULL,
    error        TEXT,
    timings      TEXT NOT NULL
);
CREATE INDEX jobs_by_status ON jobs (status, number);
CREATE TABLE images (
    job    INTEGER NOT NULL REFERENCES jobs (number),
    number INTEGER NOT NULL,
    image  TEXT NOT NULL,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
"""


class JobStore:
    """All jobs ever accepted, in the order of acceptance; safe to use from any thread."""

    def __init__(self, path: Path) -> None:
        """Open or create the file; one that is no database is put aside.

        Raises:
            StorageError: another server uses the file, it comes from a newer version, or it cannot
                be written.
        """
        self._path = path
        self._lock = threading.RLock()
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

    def add(self, job: Job) -> None:
        """Store a new job.

        Raises:
            DuplicateJob: its id is taken.
            InvalidRequest: the overrides hold something that is not JSON.
            StorageError: the disk is full or not writable.
        """
        try:
            row = _columns(job)
        except TypeError as error:
            raise InvalidRequest("override_settings", str(error), "plain JSON values") from error
        names = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        try:
            with self._transaction() as connection:
                connection.execute(f"INSERT INTO jobs ({names}) VALUES ({marks})", row)
        except sqlite3.IntegrityError as error:
            raise DuplicateJob(job.id) from error

    def update(self, job: Job) -> None:
        """Store the state of a job that is there already; its pictures are stored by `add_image`.

        Raises:
            StorageError: the disk is full or not writable.
        """
        row = _state_columns(job) | {"id": job.id}
        changes = ", ".join(f"{name} = :{name}" for name in row if name != "id")
        with self._transaction() as connection:
            connection.execute(f"UPDATE jobs SET {changes} WHERE id = :id", row)

    def add_image(self, job_id: str, image: JobImage) -> None:
        """Store one finished picture of a job.

        Raises:
            StorageError: the disk is full or not writable.
        """
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO images SELECT number, ?, ? FROM jobs WHERE id = ?",
                (image.index, json.dumps(asdict(image)), job_id),
            )

    def get(self, job_id: str) -> Job | None:
        """Return a job, or None when there is none of that id."""
        jobs = self._select("WHERE id = ?", (job_id,))
        return jobs[0] if jobs else None

    def newest(self, statuses: Collection[JobStatus] | None, limit: int) -> list[Job]:
        """Return the newest `limit` jobs, newest first; all statuses when `statuses` is None."""
        if statuses is None:
            return self._select("ORDER BY number DESC LIMIT ?", (limit,))
        marks = ", ".join("?" * len(statuses))
        names = [status.value for status in statuses]
        clause = f"WHERE status IN ({marks}) ORDER BY number DESC LIMIT ?"
        return self._select(clause, (*names, limit))

    def recover(self) -> list[Job]:
        """Mark jobs that a crash cut off as INTERRUPTED and return the queued ones, oldest first.

        Raises:
            StorageError: the disk is full or not writable.
        """
        running = (JobStatus.LOADING.value, JobStatus.RUNNING.value)
        for job in self._select("WHERE status IN (?, ?) ORDER BY number", running):
            log.warning("job %s was cut off when the server stopped", job.id)
            self.update(
                replace(
                    job,
                    status=JobStatus.INTERRUPTED,
                    finished_at=time.time(),
                    error=INTERRUPTED_ERROR,
                )
            )
        return self._select("WHERE status = ? ORDER BY number", (JobStatus.QUEUED.value,))

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
            # Exclusive: a second server on the same folder would run the queued jobs twice and
            # take the running one for a crashed one. The system drops the lock with the process.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("BEGIN IMMEDIATE")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise StorageError(
                    f"{self._path} was written by a newer version (schema {version}, this one "
                    f"knows {SCHEMA_VERSION}); use that version or another data folder"
                )
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _put_aside(self, error: sqlite3.Error) -> None:
        stamp = f"unreadable-{int(time.time())}"
        log.warning("%s cannot be read (%s); starting an empty queue, the file is kept as %s.%s",
                    self._path, error, self._path.name, stamp)  # fmt: skip
        for suffix in ("", "-wal", "-shm"):
            part = self._path.with_name(self._path.name + suffix)
            if part.exists():
                part.rename(part.with_name(f"{self._path.name}.{stamp}{suffix}"))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
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

    def _roll_back(self) -> None:
        """End a transaction that did not reach its commit, or whose commit failed."""
        with suppress(sqlite3.ProgrammingError):  # the connection is closed
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _storage_error(self, error: sqlite3.Error) -> StorageError:
        if "locked" in str(error):
            return StorageError(f"{self._path} is in use by another server on this data folder")
        return StorageError(f"could not use {self._path}: {error}")

    def _select(self, clause: str, values: Sequence[Any]) -> list[Job]:
        with self._lock:
            try:
                rows = self._connection.execute(f"SELECT * FROM jobs {clause}", values).fetchall()
                images = {row["number"]: self._images(row["number"]) for row in rows}
            except sqlite3.Error as error:
                raise self._storage_error(error) from error
        jobs = []
        for row in rows:
            try:
                jobs.append(_job(row, images[row["number"]]))
            except (ValueError, TypeError, KeyError) as error:
                log.warning("job %s cannot be read and is left out: %r", row["id"], error)
        return jobs

    def _images(self, number: int) -> list[str]:
        rows = self._connection.execute(
            "SELECT image FROM images WHERE job = ? ORDER BY number", (number,)
        )
        return [row["image"] for row in rows]


def _columns(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "origin": job.origin,
        "save_images": int(job.save_images),
        "created_at": job.created_at,
        "request": json.dumps(job.request.to_json()),
        "settings": json.dumps(job.settings.to_json()),
        **_state_columns(job),
    }


def _state_columns(job: Job) -> dict[str, Any]:
    return {
        "status": job.status.value,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "progress": json.dumps(asdict(job.progress)),
        "error": json.dumps(asdict(job.error)) if job.error else None,
        "timings": json.dumps(dict(job.timings)),
    }


def _job(row: sqlite3.Row, images: list[str]) -> Job:
    pictures = [JobImage(**_known(JobImage, image)) for image in images]
    return Job(
        id=row["id"],
        kind=row["kind"],
        origin=row["origin"],
        save_images=bool(row["save_images"]),
        status=JobStatus(row["status"]),
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        request=GenerationRequest.from_json(json.loads(row["request"])),
        settings=_settings(json.loads(row["settings"])),
        progress=_progress(row["progress"]),
        error=JobError(**_known(JobError, row["error"])) if row["error"] else None,
        images=tuple(picture for picture in pictures if picture.index >= 0),
        grid=next((picture for picture in pictures if picture.index < 0), None),
        timings=json.loads(row["timings"]),
    )


def _progress(text: str) -> Progress:
    progress = Progress(**_known(Progress, text))
    return replace(progress, notices=tuple(progress.notices))


def _known(kind: type, text: str) -> dict[str, Any]:
    """Return the values of a JSON object that `kind` has fields for; others come from elsewhen."""
    names = {row.name for row in fields(kind)}
    return {key: value for key, value in json.loads(text).items() if key in names}


def _settings(values: dict[str, Any]) -> Settings:
    settings = Settings()
    try:
        return settings.with_overrides(values)
    except InvalidRequest:
        # Stored by a version that allowed other values: keep what can be kept.
        for key, value in values.items():
            try:
                settings = settings.with_overrides({key: value})
            except InvalidRequest as error:
                log.warning("stored setting is left at its default: %s", error)
    return settings
