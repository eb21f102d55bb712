"""The part of the engine that orders waiting jobs, holds them back, and runs past ones again.

`engine.Engine` inherits it and supplies the parts; nothing here touches a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Set
from dataclasses import replace
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.core.extension import Extension
from sdforge.core.registry import Registry
from sdforge.core.request import GenerationRequest
from sdforge.core.script import Script
from sdforge.core.settings import Settings
from sdforge.engine.database import Database
from sdforge.engine.job import Job, JobStatus, Terms, check_terms
from sdforge.engine.queue import JobQueue
from sdforge.engine.store import JobStore

PAUSED_NOTE = "queue.paused"


class Queueing(ABC):
    """What the API and the page may do with waiting and past jobs, from any thread."""

    _queue: JobQueue
    _database: Database
    extensions: Registry[Extension]

    @abstractmethod
    def submit_resolved(
        self,
        request: GenerationRequest,
        settings: Settings,
        *,
        job_id: str | None = None,
        origin: str = "api",
        save_images: bool | None = None,
        terms: Terms | None = None,
    ) -> Job:
        """Queue what is resolved; the engine does."""

    @property
    def is_paused(self) -> bool:
        """Whether waiting jobs are held back; it outlives a restart."""
        return self._queue.is_paused

    def pause(self, is_paused: bool = True) -> None:
        """Hold waiting jobs back, or let them run; the running one goes on either way.

        Raises:
            StorageError: it could not be stored.
        """
        self._database.set_note(PAUSED_NOTE, "1" if is_paused else "0")
        self._queue.pause(is_paused)

    @property
    def has_waiting(self) -> bool:
        """Whether jobs wait; returns at once, whatever else goes on."""
        return self._queue.has_waiting

    def waiting(self) -> list[Job]:
        """Return the waiting jobs in the order in which they will run."""
        return self._queue.waiting()

    def running(self) -> list[Job]:
        """Return the running job, and those whose last pictures are being written."""
        return self._queue.running()

    def move(self, job_id: str, index: int) -> None:
        """Put a waiting job at a place among the waiting ones, 0 for the next to run.

        It takes the priority of those that it comes to stand among.

        Raises:
            NotFound: no job has this id.
            InvalidRequest: it does not wait any more.
            StorageError: the order could not be stored.
        """
        self._queue.move(job_id, index)

    def prioritise(self, job_id: str, priority: int) -> None:
        """Give a waiting job another priority; those of a higher one run first.

        Raises:
            NotFound, InvalidRequest, StorageError: as `move` does.
        """
        check_terms(Terms(priority=priority))
        self._queue.prioritise(job_id, priority)

    def cancel_waiting(self) -> list[str]:
        """Cancel all waiting jobs; return their ids."""
        ids = [job.id for job in self._queue.waiting()]
        for job_id in ids:
            self._queue.cancel(job_id)
        return ids

    def retry(self, job_id: str, *, rest: bool = False) -> Job:
        """Queue a finished job's request again, seeds and settings included.

        Args:
            job_id: of the finished job.
            rest: draw only the batches that it did not finish.

        Raises:
            NotFound: no job has this id.
            InvalidRequest: it is not finished, or there is no rest to draw.
            QueueFull, StorageError: as `submit` does.
        """
        job = self._queue.get(job_id)
        if not job.is_finished:
            raise InvalidRequest("job", f"{job_id}, which is {job.status.value}", "a finished job")
        scripts = {one.name for one in self.extensions if isinstance(one, Script)}
        request = remaining(job, scripts) if rest else job.request
        terms = replace(job.terms, key=None, digest="", retry_of=job.id)
        return self.submit_resolved(
            request, job.settings, origin=job.origin, save_images=job.save_images, terms=terms
        )

    def queue_state(self) -> dict[str, Any]:
        """Return {"paused", "running", "waiting"}, the last two as numbers of jobs."""
        running, waiting = len(self._queue.running()), len(self._queue.waiting())
        return {"paused": self.is_paused, "running": running, "waiting": waiting}


def open_queue(database: Database, on_finished: Callable[[Job], None]) -> JobQueue:
    """Return the queue of a database, held back if it was when the last server stopped."""
    is_paused = database.note(PAUSED_NOTE) == "1"
    return JobQueue(JobStore(database), is_paused=is_paused, on_finished=on_finished)


def remaining(job: Job, scripts: Set[str]) -> GenerationRequest:
    """Return the request for the batches that a job did not finish, with their own seeds.

    Args:
        job: a finished one.
        scripts: names of extensions that draw more than a request says.

    Raises:
        InvalidRequest: nothing is left, or a script drew it, whose batches cannot be told apart.
    """
    request = job.request
    done = {image.index for image in job.images}
    batches = 0
    size = request.batch_size
    while all(batches * size + row in done for row in range(size)):
        batches += 1
    if job.status is JobStatus.DONE or batches >= request.batch_count:
        raise InvalidRequest("rest", True, "false: this job has no batch left to draw")
    if not scripts.isdisjoint(request.extensions):
        raise InvalidRequest("rest", True, "false for the jobs of scripts")
    first = batches * size
    varied = request.subseed_strength != 0
    return replace(
        request,
        batch_count=request.batch_count - batches,
        seed=request.seed if varied else request.image_seed(first),
        subseed=request.image_subseed(first),
        prompts=_from(request.prompts, first),
        negative_prompts=_from(request.negative_prompts, first),
        hires_prompts=_from(request.hires_prompts, first),
        hires_negative_prompts=_from(request.hires_negative_prompts, first),
    )


def _from(texts: tuple[str, ...], first: int) -> tuple[str, ...]:
    return texts[first:] if len(texts) > 1 else texts
