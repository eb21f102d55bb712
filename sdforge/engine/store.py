"""Jobs on disk, in the database that survives a crash of the server.

Only `queue.py` uses it. Previews and events are not stored.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import Settings
from sdforge.engine.database import Database
from sdforge.engine.history_store import Picture, insert
from sdforge.engine.job import (
    INTERRUPTED_ERROR,
    DuplicateJob,
    Job,
    JobError,
    JobImage,
    JobStatus,
    Progress,
    Terms,
)

log = logging.getLogger(__name__)

# For how long an idempotency key is remembered.
KEY_SECONDS = 24 * 3600.0


class JobStore:
    """All jobs ever accepted, in the order of acceptance; safe to use from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
            with self._database.transaction() as connection:
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
        with self._database.transaction() as connection:
            connection.execute(f"UPDATE jobs SET {changes} WHERE id = :id", row)

    def add_image(self, job_id: str, image: JobImage, picture: Picture | None = None) -> None:
        """Store one finished picture of a job, and its row of the history if there is one.

        Raises:
            StorageError: the disk is full or not writable.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO images SELECT number, ?, ? FROM jobs WHERE id = ?",
                (image.index, json.dumps(asdict(image)), job_id),
            )
            if picture is not None:
                insert(connection, picture)

    def untold(self) -> list[Job]:
        """Return the jobs that have ended and whose webhooks were not told, oldest first."""
        return self._select("WHERE untold ORDER BY number", ())

    def set_told(self, job_id: str) -> None:
        """Note that a job's webhook was told, or never will be.

        Raises:
            StorageError: the disk is full or not writable.
        """
        with self._database.transaction() as connection:
            connection.execute("UPDATE jobs SET untold = 0 WHERE id = ?", (job_id,))

    def of_key(self, key: str) -> Job | None:
        """Return the newest job that came with an idempotency key, while it is remembered."""
        since = time.time() - KEY_SECONDS
        jobs = self._select(
            "WHERE key = ? AND created_at > ? ORDER BY number DESC LIMIT 1", (key, since)
        )
        return jobs[0] if jobs else None

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
        """Mark jobs that a crash cut off as INTERRUPTED and return the queued ones in their order.

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
        order = "ORDER BY priority DESC, rank, number"
        return self._select(f"WHERE status = ? {order}", (JobStatus.QUEUED.value,))

    def _select(self, clause: str, values: Sequence[Any]) -> list[Job]:
        with self._database.lock:
            rows = self._database.select(f"SELECT * FROM jobs {clause}", values)  # noqa: S608
            images = {row["number"]: self._images(row["number"]) for row in rows}
        jobs = []
        for row in rows:
            try:
                jobs.append(_job(row, images[row["number"]]))
            except (ValueError, TypeError, KeyError) as error:
                log.warning("job %s cannot be read and is left out: %r", row["id"], error)
        return jobs

    def _images(self, number: int) -> list[str]:
        rows = self._database.select(
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
        "key": job.terms.key,
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
        "priority": job.terms.priority,
        "rank": job.rank,
        "terms": json.dumps(asdict(job.terms)),
        # In the same row as the end itself: a crash loses neither, or both.
        "untold": int(job.is_finished and job.terms.webhook is not None),
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
        terms=Terms(**_known(Terms, row["terms"])),
        rank=row["rank"],
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
