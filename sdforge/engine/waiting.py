"""The jobs that wait, in their order, and what changes it: priority, moving, pausing.

`queue.JobQueue` inherits it; the lock, the store and the jobs are its.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from sdforge.core.errors import InvalidRequest
from sdforge.engine.event_log import EventLog
from sdforge.engine.job import Job
from sdforge.engine.line import Place, in_order, last_rank, moved
from sdforge.engine.store import JobStore
from sdforge.pipeline.context import RunControl


@dataclass(kw_only=True, eq=False)
class LiveJob:
    """A job in memory: its newest snapshot and what is not stored on disk."""

    job: Job
    log: EventLog
    control: RunControl = field(default_factory=RunControl)
    preview: tuple[int, bytes, str] | None = None
    # Set when the job has finished, or when the queue closes and it will not finish any more.
    settled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, eq=False)
class Chore:
    """Something to do on the model thread between jobs; `done` takes its result or error."""

    action: Callable[[], object]
    done: Future[None] = field(default_factory=Future)


class WaitingJobs(ABC):
    """The waiting part of a queue; safe to use from any thread."""

    _store: JobStore
    _changed: threading.Condition
    _waiting: dict[str, LiveJob]
    _running: dict[str, LiveJob]
    _paused: bool
    _between: Callable[[], Chore | None]

    @abstractmethod
    def get(self, job_id: str) -> Job:
        """Return a job's newest snapshot; the queue knows."""

    def move(self, job_id: str, index: int) -> None:
        """Put a waiting job at a place among them, 0 for the next to run.

        Raises:
            NotFound: no job has this id.
            InvalidRequest: it does not wait any more.
            StorageError: the order could not be stored.
        """
        with self._changed:
            self._must_wait(job_id)
            self._put(moved(self._places(), job_id, index))

    def prioritise(self, job_id: str, priority: int) -> None:
        """Give a waiting job another priority, behind those that have it already.

        Raises:
            NotFound, InvalidRequest, StorageError: as `move` does.
        """
        with self._changed:
            self._must_wait(job_id)
            self._put({job_id: Place(priority=priority, rank=last_rank(self._places()))})

    def offer_between(self, take: Callable[[], Chore | None]) -> None:
        """Ask `take` for something to do whenever no job may run; it must return at once."""
        self._between = take

    def wake(self) -> None:
        """Let the model thread look again for something to do."""
        with self._changed:
            self._changed.notify_all()

    @property
    def is_paused(self) -> bool:
        """Whether no waiting job is started."""
        return self._paused

    def pause(self, is_paused: bool) -> None:
        """Start no waiting job any more, or start them again; the running one goes on."""
        with self._changed:
            self._paused = is_paused
            self._changed.notify_all()

    @property
    def has_waiting(self) -> bool:
        """Whether jobs wait; takes no lock, so it never waits."""
        return bool(self._waiting)

    def waiting(self) -> list[Job]:
        """Return the jobs that wait, in the order in which they will run."""
        with self._changed:
            return [live.job for live in self._waiting.values()]

    def running(self) -> list[Job]:
        """Return the jobs that run, also those whose pictures are only being written any more."""
        with self._changed:
            return [live.job for live in self._running.values()]

    def _places(self) -> dict[str, Place]:
        return {
            name: Place(priority=live.job.terms.priority, rank=live.job.rank)
            for name, live in self._waiting.items()
        }

    def _put(self, places: Mapping[str, Place]) -> None:
        """Store new places and sort the jobs by them."""
        for name, place in places.items():
            live = self._waiting[name]
            terms = replace(live.job.terms, priority=place.priority)
            job = replace(live.job, terms=terms, rank=place.rank)
            self._store.update(job)
            live.job = job
        self._sort()

    def _sort(self) -> None:
        self._waiting = {name: self._waiting[name] for name in in_order(self._places())}

    def _must_wait(self, job_id: str) -> None:
        """Raise unless a job waits."""
        if job_id not in self._waiting:
            status = self.get(job_id).status.value
            raise InvalidRequest("job", f"{job_id}, which is {status}", "a job that waits")
