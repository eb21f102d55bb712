"""Who is next: the jobs that are alive, in order, each with its events; the store keeps the rest.

The queue decides and records; `worker.py` runs. Every state of a job is replaced here under one
lock, then written to the store. Things to do on the model thread between jobs (load, unload) are
handed over here too, as `Chore`s.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from sdforge.core.errors import NotFound, QueueFull, StorageError
from sdforge.core.events import Event, JobFinished, JobQueued, JobStarted, PreviewReady
from sdforge.engine.event_log import EventLog
from sdforge.engine.history_store import picture_of
from sdforge.engine.job import (
    ACTIVE,
    INTERRUPTED_ERROR,
    DuplicateJob,
    Job,
    JobError,
    JobImage,
    JobStatus,
    KeyReused,
    Progress,
)
from sdforge.engine.line import last_rank
from sdforge.engine.store import JobStore
from sdforge.engine.waiting import Chore, LiveJob, WaitingJobs

log = logging.getLogger(__name__)

# Finished jobs whose events stay readable, for pages that are reloaded.
KEEP_FINISHED = 100


class JobQueue(WaitingJobs):
    """All jobs of one server; safe to use from any thread."""

    def __init__(
        self,
        store: JobStore,
        *,
        keep_finished: int = KEEP_FINISHED,
        is_paused: bool = False,
        on_finished: Callable[[Job], None] = lambda job: None,
    ) -> None:
        """Take up the jobs that waited when the last server stopped.

        Args:
            store: keeps the jobs.
            keep_finished: how many finished ones keep their events.
            is_paused: whether waiting jobs are held back.
            on_finished: told of each job that ends, under the lock: it must return at once.
        """
        self._store = store
        self._keep_finished = keep_finished
        self._changed = threading.Condition(threading.RLock())
        self._live: dict[str, LiveJob] = {}
        self._waiting: dict[str, LiveJob] = {}
        self._running: dict[str, LiveJob] = {}
        self._finished: deque[str] = deque()
        self._chores: deque[Chore] = deque()
        self._between: Callable[[], Chore | None] = lambda: None
        self._closing = False
        self._closed = False
        self._paused = is_paused
        self._on_finished = on_finished
        for job in store.recover():
            self._enter(job)

    # --- what clients do ---------------------------------------------------------------------

    def add(self, job: Job, *, max_waiting: int) -> Job:
        """Store a job and put it behind those of its priority.

        A job that came before with the same idempotency key is returned instead.

        Raises:
            DuplicateJob: a job of this id exists.
            KeyReused: the key came before, with another request.
            QueueFull: `max_waiting` jobs wait already, or the server is stopping.
            StorageError: the job could not be stored.
        """
        with self._changed:
            if self._closing:
                raise QueueFull("the server is stopping and takes no more jobs")
            if (earlier := self._of_same_key(job)) is not None:
                return earlier
            if job.id in self._live:
                raise DuplicateJob(job.id)
            if len(self._waiting) >= max_waiting:
                raise QueueFull(
                    f"{len(self._waiting)} jobs wait already, the most that may "
                    "(setting max_queued_jobs); try again when some are done"
                )
            job = replace(job, rank=last_rank(self._places()))
            self._store.add(job)
            self._enter(job)
            self._changed.notify_all()
            return job

    def cancel(self, job_id: str | None) -> None:
        """Stop a job: a waiting one ends at once, the running one (None) at its next step.

        Raises:
            NotFound: no job has this id.
        """
        with self._changed:
            live = self._target(job_id)
            if live is None:
                return
            if live.job.status is JobStatus.QUEUED:
                self.finish(live.job.id, JobStatus.CANCELLED)
            else:
                live.control.cancel()
                live.job = replace(live.job, cancel_requested=True)

    def skip(self, job_id: str | None) -> None:
        """End the current batch of a job that runs (None: the running one).

        Raises:
            NotFound: no job has this id.
        """
        with self._changed:
            live = self._target(job_id)
            if live is not None and live.job.status is not JobStatus.QUEUED:
                live.control.skip()

    def get(self, job_id: str) -> Job:
        """Return a job's newest snapshot.

        Raises:
            NotFound: no job has this id.
        """
        live = self._live.get(job_id)
        job = live.job if live else self._store.get(job_id)
        if job is None:
            raise NotFound(f"no job has the id {job_id!r}")
        return job

    def newest(self, statuses: Collection[JobStatus] | None, limit: int) -> list[Job]:
        """Return the newest `limit` jobs of some statuses (None: of any), newest first."""
        with self._changed:
            if statuses is not None and ACTIVE.issuperset(statuses):
                alive = (*self._running.values(), *self._waiting.values())
                jobs = [live.job for live in reversed(alive) if live.job.status in statuses]
                return jobs[:limit]
            stored = self._store.newest(statuses, limit)
            return [self._live[job.id].job if job.id in self._live else job for job in stored]

    def current(self) -> Job | None:
        """Return the job that the model thread works on; takes no lock, so it never waits."""
        running = list(self._running.values())
        return running[-1].job if running else None

    def position(self, job_id: str) -> int | None:
        """Return how many jobs run before a waiting one, the running one included; else None."""
        with self._changed:
            if job_id not in self._waiting:
                return None
            return list(self._waiting).index(job_id) + len(self._running)

    def untold(self) -> list[Job]:
        """Return the jobs that have ended and whose webhooks were not told, oldest first."""
        return self._store.untold()

    def set_told(self, job_id: str) -> None:
        """Note that a job's webhook was told, or never will be."""
        try:
            self._store.set_told(job_id)
        except StorageError as error:
            log.warning("job %s may be told of once more: %s", job_id, error)

    def wait(self, job_id: str, timeout: float | None) -> Job:
        """Wait until a job is finished, at most `timeout` seconds; return its newest snapshot.

        It returns early, with the job unfinished, when the server stops.
        """
        live = self._live.get(job_id)
        if live is None:
            return self.get(job_id)
        live.settled.wait(timeout)
        return live.job

    def preview(self, job_id: str) -> tuple[int, bytes, str] | None:
        """Return (number, encoded picture, media type) of a running job's newest preview."""
        live = self._live.get(job_id)
        return live.preview if live else None

    def event_log(self, job_id: str) -> EventLog:
        """Return a job's events; of a job that ended long ago only its end.

        Raises:
            NotFound: no job has this id.
        """
        live = self._live.get(job_id)
        if live is not None:
            return live.log
        job = self.get(job_id)
        events = EventLog(job_id)
        events.append(_finished(job))
        events.end()
        return events

    # --- what the model thread does ----------------------------------------------------------

    def add_chore(self, action: Callable[[], object]) -> Future[None]:
        """Let the model thread do something before its next job."""
        chore = Chore(action)
        with self._changed:
            if self._closing:
                chore.done.cancel()
            else:
                self._chores.append(chore)
                self._changed.notify_all()
        return chore.done

    @property
    def has_work(self) -> bool:
        """Whether a job or chore could begin now, or the queue closes."""
        return self._closing or bool(self._chores) or bool(self._waiting and not self._paused)

    def next(self) -> LiveJob | Chore | None:
        """Wait for something to do and take it; None when the queue closes."""
        with self._changed:
            while not self._closing:
                if self._chores:
                    return self._chores.popleft()
                if self._waiting and not self._paused:
                    return self._start(next(iter(self._waiting)))
                if (chore := self._between()) is not None:
                    return chore
                self._changed.wait()
            return None

    def report(self, job_id: str, event: Event, progress: Progress, status: JobStatus) -> None:
        """Record an event of a running job and what it means for its progress and status."""
        with self._changed:
            live = self._running.get(job_id)
            if live is None:
                return
            moved = status is not live.job.status
            live.job = replace(live.job, progress=progress, status=status)
            if moved:
                self._save(live.job)
            if isinstance(event, PreviewReady):
                number = live.preview[0] + 1 if live.preview else 1
                live.preview = (number, event.image, event.media_type)
            live.log.append(event)

    def add_image(self, job_id: str, image: JobImage, event: Event | None) -> None:
        """Record a finished picture, or the grid, of a running job."""
        with self._changed:
            live = self._running.get(job_id)
            if live is None or self._closed:
                return
            if image.index < 0:
                live.job = replace(live.job, grid=image)
            else:
                images = sorted((*live.job.images, image), key=lambda one: one.index)
                live.job = replace(live.job, images=tuple(images))
            try:
                self._store.add_image(job_id, image, picture_of(live.job, image))
            except StorageError as error:
                log.warning("picture %d of job %s is not recorded: %s", image.index, job_id, error)
            if event is not None:
                live.log.append(event)

    def finish(
        self,
        job_id: str,
        status: JobStatus,
        error: JobError | None = None,
        timings: dict[str, float] | None = None,
    ) -> None:
        """End a job; one that has ended already stays as it is."""
        with self._changed:
            live = self._running.pop(job_id, None) or self._waiting.pop(job_id, None)
            if live is None:
                return
            job = live.job
            fraction = 1.0 if status is JobStatus.DONE else job.progress.fraction
            live.job = replace(
                job,
                status=status,
                finished_at=time.time(),
                error=error,
                timings=timings or {},
                progress=replace(
                    job.progress, fraction=fraction, eta_seconds=None, stage="", text=""
                ),
            )
            self._save(live.job)
            live.preview = None
            live.log.append(_finished(live.job))
            live.log.end()
            live.settled.set()
            self._on_finished(live.job)
            self._finished.append(job_id)
            while len(self._finished) > self._keep_finished:
                del self._live[self._finished.popleft()]

    # --- stopping ----------------------------------------------------------------------------

    @property
    def is_closing(self) -> bool:
        """Whether the server is stopping."""
        return self._closing

    def stop(self) -> None:
        """Take no more jobs, start none, and ask the running ones to stop at their next step."""
        with self._changed:
            self._closing = True
            for live in self._running.values():
                live.control.cancel()
            for chore in self._chores:
                chore.done.cancel()
            self._chores.clear()
            self._changed.notify_all()

    def end_logs(self) -> None:
        """Let those go that follow events; jobs may go on running for a while."""
        with self._changed:
            for live in (*self._running.values(), *self._waiting.values()):
                live.log.end()

    def close(self) -> None:
        """Record what did not end as interrupted and let all waiters go; waiting jobs stay."""
        with self._changed:
            for job_id in list(self._running):
                self.finish(job_id, JobStatus.INTERRUPTED, INTERRUPTED_ERROR)
            self._closed = True
            for live in self._waiting.values():
                live.log.end()
                live.settled.set()

    # --- inside ------------------------------------------------------------------------------

    def _enter(self, job: Job) -> None:
        live = LiveJob(job=job, log=EventLog(job.id))
        self._live[job.id] = live
        self._waiting[job.id] = live
        self._sort()
        live.log.append(JobQueued(position=self.position(job.id) or 0))

    def _of_same_key(self, job: Job) -> Job | None:
        key = job.terms.key
        earlier = self._store.of_key(key) if key is not None else None
        if earlier is None:
            return None
        if earlier.terms.digest != job.terms.digest:
            raise KeyReused(key or "")
        return self._live[earlier.id].job if earlier.id in self._live else earlier

    def _start(self, job_id: str) -> LiveJob:
        live = self._waiting[job_id]
        # In this order: who takes no lock must not find it in neither.
        self._running[job_id] = live
        del self._waiting[job_id]
        live.job = replace(live.job, status=JobStatus.LOADING, started_at=time.time())
        self._save(live.job)
        live.log.append(JobStarted())
        return live

    def _target(self, job_id: str | None) -> LiveJob | None:
        """Return the job that is meant if it can still be stopped."""
        if job_id is None:
            return next(reversed(self._running.values()), None)
        live = self._running.get(job_id) or self._waiting.get(job_id)
        if live is None:
            self.get(job_id)
        return live

    def _save(self, job: Job) -> None:
        try:
            self._store.update(job)
        except StorageError as error:
            # The job goes on: losing its record is less bad than losing its pictures.
            log.error("the state of job %s is not stored: %s", job.id, error)


def _finished(job: Job) -> JobFinished:
    message: Any = job.error.message if job.error else None
    return JobFinished(status=job.status.value, error=message)
