"""The facade: everything that the API, the page and scripts may do with jobs and models.

It checks and resolves requests, and wires queue, worker, writer and caches together. It runs
nothing itself; all methods may be called from any thread and return quickly, but for `wait` and
`events`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from sdforge.core.errors import ModelError, NotFound, UnknownName
from sdforge.core.events import JobEvent
from sdforge.core.paths import Paths
from sdforge.core.request import GenerationRequest, Limits, Recommended, resolve, validate
from sdforge.core.settings import OPTIONS, Settings, SettingsStore
from sdforge.engine.event_log import Subscription
from sdforge.engine.job import Job, JobStatus, check_job_id, new_job_id
from sdforge.engine.picture_cache import PictureCache
from sdforge.engine.queue import JobQueue
from sdforge.engine.runner import Runner
from sdforge.engine.store import JobStore
from sdforge.engine.worker import Worker
from sdforge.output.writer import ImageWriter
from sdforge.sampling.names import resolve_sampler

log = logging.getLogger(__name__)

DEFAULT_CLOSE_SECONDS = 30.0


class Checkpoint(Protocol):
    """What the engine needs to know of a checkpoint."""

    @property
    def title(self) -> str:
        """The name that the model provider loads it by."""

    @property
    def recommended(self) -> Recommended:
        """The size and scale that it was made for."""

    @property
    def error(self) -> str | None:
        """Why it cannot run, None when it can."""


class CheckpointLibrary(Protocol):
    """Where checkpoints are found; `models.library.Library` is the real one."""

    def find(self, name: str) -> Checkpoint:
        """Return the checkpoint of a title, file name, hash…; of "" the first there is."""

    def checkpoints(self) -> list[Any]:
        """Return all checkpoints."""

    def refresh(self) -> None:
        """Look again at what is on disk."""


class Engine:
    """One server's jobs, models and pictures."""

    def __init__(
        self,
        *,
        paths: Paths,
        settings: SettingsStore,
        library: CheckpointLibrary,
        make_runner: Callable[[], Runner],
        version: str,
    ) -> None:
        """Open the queue on disk; jobs are accepted from now on and run after `start`.

        Args:
            paths: where the database and the pictures go.
            settings: the settings; each job keeps the snapshot of its acceptance.
            library: the checkpoints there are.
            make_runner: called on the model thread when the first job needs it.
            version: the program's.

        Raises:
            StorageError: the database cannot be used, or another server uses it.
        """
        self.settings = settings
        self.library = library
        self.version = version
        self._store = JobStore(paths.database)
        self._queue = JobQueue(self._store)
        self._pictures = PictureCache()
        self._writer = ImageWriter(paths)
        self._worker = Worker(
            self._queue,
            make_runner,
            lambda: settings.current,
            self._writer,
            self._pictures,
        )
        self._close_lock = threading.Lock()
        self._is_closed = False

    def start(self, *, preload: bool = False) -> None:
        """Begin to run jobs; with `preload`, load the configured checkpoint first."""
        if preload:
            self.preload()
        self._worker.start()

    def close(self, timeout: float = DEFAULT_CLOSE_SECONDS) -> None:
        """Stop: the running job ends at its next step as interrupted, waiting ones stay for later.

        Pictures that are done are still written. A model thread that does not stop within `timeout`
        seconds is left behind, without its job. Closing twice does nothing.
        """
        with self._close_lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._queue.stop()
            if not self._worker.join(timeout):
                log.warning("the running job did not stop within %.0f s", timeout)
            self._writer.close()
            self._queue.close()
            self._store.close()

    # --- jobs --------------------------------------------------------------------------------

    def submit(
        self,
        request: GenerationRequest,
        *,
        job_id: str | None = None,
        origin: str = "api",
        save_images: bool | None = None,
    ) -> Job:
        """Check and resolve a request and queue it as a job.

        Args:
            request: what to draw; seeds, sizes and names may be left open.
            job_id: the client's own id, A1111's `force_task_id`.
            origin: "ui" or "api".
            save_images: False keeps pictures and grid off the disk; otherwise the settings
                `samples_save` and `grid_save` decide.

        Raises:
            InvalidRequest: a field cannot be used; it is named as the API names it.
            UnknownName: no such sampler, schedule or checkpoint.
            ModelError: the checkpoint cannot serve.
            DuplicateJob: `job_id` is taken.
            QueueFull: too many jobs wait, or the server is stopping.
            StorageError: the job could not be stored.
        """
        if job_id is not None:
            check_job_id(job_id)
        current = self.settings.current
        request = replace(request, overrides=_permitted(request.overrides))
        settings = current.with_overrides(request.overrides)
        kind = "txt2img"
        job = Job(
            id=job_id or new_job_id(kind),
            kind=kind,
            origin=origin,
            request=self._resolved(request, settings, current),
            settings=settings,
            save_images=save_images is not False,
            created_at=time.time(),
        )
        return self._queue.add(job, max_waiting=current.max_queued_jobs)

    def get(self, job_id: str) -> Job:
        """Return a job's newest snapshot; raises `NotFound`."""
        return self._queue.get(job_id)

    def jobs(self, *, statuses: Collection[JobStatus] | None = None, limit: int = 100) -> list[Job]:
        """Return the newest `limit` jobs of some statuses (None: of any), newest first."""
        return self._queue.newest(statuses, limit)

    def current(self) -> Job | None:
        """Return the job that runs now."""
        return self._queue.current()

    def queue_position(self, job_id: str) -> int | None:
        """Return how many jobs run before a waiting one, the running one included; else None."""
        return self._queue.position(job_id)

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Wait until a job is finished and return it.

        After `timeout` seconds, or when the server stops, it is returned as it is then.

        Raises:
            NotFound: no job has this id.
        """
        return self._queue.wait(job_id, timeout)

    def cancel(self, job_id: str | None = None) -> None:
        """Stop a job (None: the running one); finished ones stay as they are.

        Raises:
            NotFound: no job has this id.
        """
        self._queue.cancel(job_id)

    def skip(self, job_id: str | None = None) -> None:
        """End the current batch of a running job (None: the running one).

        Raises:
            NotFound: no job has this id.
        """
        self._queue.skip(job_id)

    # --- what comes out ----------------------------------------------------------------------

    def preview(self, job_id: str) -> tuple[int, bytes, str] | None:
        """Return (number, encoded picture, media type) of a running job's newest preview."""
        return self._queue.preview(job_id)

    def image_data(self, job_id: str, index: int) -> tuple[bytes, str]:
        """Return (encoded picture, media type) of a job's picture `index`; -1 is its grid.

        Raises:
            NotFound: no such job or picture, its file is gone, or it was never saved and had to
                make room for newer ones.
        """
        job = self._queue.get(job_id)
        known = job.images if job.grid is None else (*job.images, job.grid)
        image = next((image for image in known if image.index == index), None)
        if image is None:
            raise NotFound(f"job {job_id!r} has no picture {index}; it has {len(job.images)}")
        if image.path is not None:
            try:
                return Path(image.path).read_bytes(), image.media_type
            except OSError as error:
                text = f"picture {index} of job {job_id!r} cannot be read: {error.strerror}"
                raise NotFound(text) from error
        held = self._pictures.get(job_id, index)
        if held is None:
            raise NotFound(
                f"picture {index} of job {job_id!r} was not saved and is no longer in memory"
            )
        return held

    def events(self, job_id: str, after: int = 0) -> Iterator[JobEvent]:
        """Yield a job's events numbered above `after`: those that were, then live ones.

        Ends after `JobFinished`, or when the server stops. Blocks while nothing happens.

        Raises:
            NotFound: no job has this id.
        """
        return iter(Subscription(self._queue.event_log(job_id), after))

    def subscribe(
        self, job_id: str, *, after: int = 0, notify: Callable[[], None] | None = None
    ) -> Subscription:
        """Return a reader of a job's events, used like a `queue.Queue`.

        Args:
            job_id: whose events.
            after: only those numbered above.
            notify: called on other threads whenever there may be something to get.

        Raises:
            NotFound: no job has this id.
        """
        return Subscription(self._queue.event_log(job_id), after, notify)

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription."""
        subscription.close()

    # --- models ------------------------------------------------------------------------------

    def preload(self, name: str = "") -> Future[None]:
        """Load a checkpoint ("": the configured one) before the next job; errors are recorded."""

        def find_title() -> str:
            if name:
                return self.library.find(name).title
            return self._configured(self.settings.current).title

        return self._worker.preload(find_title)

    def unload(self) -> Future[None]:
        """Give back the memory of all models before the next job, which loads again."""
        return self._worker.unload()

    def model_state(self) -> dict[str, Any]:
        """Return {"title", "loading", "fraction", "error"} of the loaded model."""
        return asdict(self._worker.model_state)

    def memory_report(self) -> dict[str, Any]:
        """Return who holds how many bytes; empty before anything was loaded."""
        return self._worker.memory_report()

    # --- inside ------------------------------------------------------------------------------

    def _resolved(
        self, request: GenerationRequest, settings: Settings, current: Settings
    ) -> GenerationRequest:
        limits = Limits(
            pixels_per_image=current.max_pixels_per_image,
            images_per_job=current.max_images_per_job,
        )
        validate(request, limits)
        sampler, schedule = resolve_sampler(request.sampler, request.schedule)
        asked = request.checkpoint or request.overrides.get("sd_model_checkpoint")
        checkpoint = self.library.find(asked) if asked else self._configured(settings)
        if checkpoint.error is not None:
            raise ModelError(checkpoint.error)
        resolved = resolve(
            request,
            checkpoint=checkpoint.title,
            recommended=checkpoint.recommended,
            sampler=sampler,
            schedule=schedule,
        )
        # Again, because one side may have been left open.
        validate(resolved, limits)
        return resolved

    def _configured(self, settings: Settings) -> Checkpoint:
        """Return the checkpoint of the settings, or the first one when its file is gone (A1111)."""
        name = settings.sd_model_checkpoint
        try:
            return self.library.find(name)
        except (UnknownName, ModelError) as error:
            if not name:
                raise
            fallback = self.library.find("")
            log.warning("%s; using %s", error, fallback.title)
            return fallback


def _permitted(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides that a request may make: nulls and locked settings are left out."""
    kept = {}
    for key, value in overrides.items():
        if key in OPTIONS and OPTIONS[key].locked:
            log.warning("the setting %s cannot be overridden by a request and is ignored", key)
        elif value is not None:
            kept[key] = value
    return kept
