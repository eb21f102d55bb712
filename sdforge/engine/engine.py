"""The facade: everything that the API, the page and scripts may do with jobs and models.

It checks and resolves requests, and wires queue, worker, writer and caches together. It runs
nothing itself; all methods may be called from any thread and return quickly, but for `wait` and
`events`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from sdforge.core.errors import SdforgeError
from sdforge.core.extension import Extension
from sdforge.core.folders import AllowedFolders
from sdforge.core.inputs import InputImage
from sdforge.core.paths import Paths
from sdforge.core.registry import Registry
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import Settings, SettingsStore
from sdforge.engine.between import Between
from sdforge.engine.database import Database
from sdforge.engine.details import details_by
from sdforge.engine.history import History
from sdforge.engine.history_store import HistoryStore
from sdforge.engine.inputs import InputFolder
from sdforge.engine.job import (
    ACTIVE,
    Job,
    JobStatus,
    Terms,
    check_job_id,
    check_terms,
    new_job_id,
)
from sdforge.engine.memory_answers import MemoryAnswers
from sdforge.engine.model_access import ModelAccess
from sdforge.engine.outcomes import Outcomes
from sdforge.engine.picture_cache import PictureCache
from sdforge.engine.preflight import CHECKED, Preflight
from sdforge.engine.queueing import Queueing, open_queue
from sdforge.engine.resolution import CheckpointLibrary, Resolver, permitted
from sdforge.engine.runner import Runner
from sdforge.engine.tally import Tally
from sdforge.engine.webhooks import WebhookRules, Webhooks
from sdforge.engine.worker import Worker
from sdforge.extensions.catalog import load_extensions
from sdforge.memory.monitor import MemoryMonitor
from sdforge.output.writer import ImageWriter
from sdforge.prompt.counting import count_prompt
from sdforge.prompt.styles import StyleLibrary
from sdforge.prompt.wildcards import WildcardFolder

log = logging.getLogger(__name__)

DEFAULT_CLOSE_SECONDS = 30.0
# So long those who wait for a job's pictures are made to wait for its last step, when the server
# stops: shorter than it gives their connections.
_STEP_SECONDS = 1.5
_PAST_JOBS = 8  # looked through for one of the same checkpoint, to predict times from
# How often old input pictures are looked for, while new ones come.
_CLEAN_SECONDS = 3600.0
_MIB = 1024 * 1024


class Dependent(Protocol):
    """Something above the engine that makes jobs as time goes by."""

    def inputs_in_use(self) -> set[str]:
        """Return the SHA-256 of input pictures that jobs to come need."""

    def close(self) -> None:
        """Submit nothing any more."""


class Engine(Between, MemoryAnswers, ModelAccess, Outcomes, Queueing):
    """One server's jobs, models and pictures."""

    _inputs_cleaned = 0.0

    def __init__(
        self,
        *,
        paths: Paths,
        settings: SettingsStore,
        library: CheckpointLibrary,
        make_runner: Callable[[], Runner],
        version: str,
        extensions: Registry[Extension] | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the queue on disk; jobs are accepted from now on and run after `start`.

        Args:
            paths: where the database and the pictures go.
            settings: the settings; each job keeps the snapshot of its acceptance.
            library: the checkpoints there are.
            make_runner: called on the model thread when the first job needs it.
            version: the program's.
            extensions: those that requests may use; None for the ones that ship.
            flags: start-up flags by key; those on memory and precision count for estimates.

        Raises:
            StorageError: the database cannot be used, or another server uses it.
        """
        self.settings = settings
        self.library = library
        self.version = version
        self.extensions = load_extensions() if extensions is None else extensions
        self.styles = StyleLibrary(paths.styles)
        self._resolver = Resolver(
            library, self.extensions, self.styles, WildcardFolder(paths.wildcards)
        )
        self.inputs = InputFolder(paths.inputs)
        self.folders = AllowedFolders(paths, flags)
        self.tally = Tally()
        self._database = Database(paths.database)
        self._queue = open_queue(self._database, self._on_finished)
        self._webhooks = Webhooks(
            WebhookRules.from_flags(flags), owed=self._queue.untold(), on_told=self._queue.set_told
        )
        self.history = History(HistoryStore(self._database), paths, settings)
        self._pictures = PictureCache()
        self._writer = ImageWriter(paths)
        self._worker = Worker(
            self._queue,
            make_runner,
            lambda: settings.current,
            self._writer,
            self._pictures,
            self._settled,
        )
        self._preflight = Preflight(library, paths.cache, self._worker.memory_report, flags)
        self._last_mode: tuple[str, str] | None = None
        self._monitor = MemoryMonitor(
            self._worker.memory_report, lambda: self._queue.current() is not None
        )
        self._close_lock = threading.Lock()
        self._is_closed = False
        self._dependents: list[Dependent] = []

    def attach(self, dependent: Dependent) -> None:
        """Take up what submits jobs of its own accord: it is closed before the engine is."""
        self._dependents.append(dependent)

    def start(self) -> None:
        """Begin to run jobs, after what was asked to be loaded."""
        self._webhooks.start()
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
            for dependent in self._dependents:
                dependent.close()
            self._queue.stop()
            self._monitor.close()
            if not self._worker.join(min(timeout, _STEP_SECONDS)):
                self._queue.end_logs()
            if not self._worker.join(max(timeout - _STEP_SECONDS, 0)):
                log.warning("the running job did not stop within %.0f s", timeout)
            self._writer.close()
            self._queue.close()
            self._webhooks.close()
            self.history.close()
            self._database.close()

    # --- jobs --------------------------------------------------------------------------------

    def submit(
        self,
        request: GenerationRequest,
        *,
        job_id: str | None = None,
        origin: str = "api",
        save_images: bool | None = None,
        terms: Terms | None = None,
    ) -> Job:
        """Check and resolve a request and queue it as a job.

        Args:
            request: what to draw; seeds, sizes and names may be left open.
            job_id: the client's own id, A1111's `force_task_id`.
            origin: "ui" or "api".
            save_images: False keeps pictures and grid off the disk; otherwise the settings
                `samples_save` and `grid_save` decide.
            terms: what else was agreed with the client.

        Raises:
            InvalidRequest: a field cannot be used; it is named as the API names it.
            UnknownName: no such sampler, schedule or checkpoint.
            ModelError: the checkpoint cannot serve.
            DuplicateJob: `job_id` is taken.
            QueueFull: too many jobs wait, or the server is stopping.
            StorageError: the job could not be stored.
        """
        resolved, settings = self.resolve(request)
        return self.submit_resolved(
            resolved, settings, job_id=job_id, origin=origin, save_images=save_images, terms=terms
        )

    def resolve(
        self, request: GenerationRequest, settings: Settings | None = None
    ) -> tuple[GenerationRequest, Settings]:
        """Return a request with nothing left open, and the settings that it will run with.

        Args:
            request: what to draw.
            settings: that the request's overrides change; None for the current ones.

        Raises:
            InvalidRequest, UnknownName, ModelError: as `submit` does.
        """
        current = self.settings.current
        request, settings = self._with_overrides(request, settings or current)
        return self._resolver.resolved(request, settings, current), settings

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
        """Queue what `resolve` returned, at that time or an earlier one.

        Raises:
            InvalidRequest: `job_id` or `terms` cannot be used.
            DuplicateJob, QueueFull, StorageError: as `submit` does.
        """
        terms = terms or Terms()
        check_terms(terms)
        if terms.webhook is not None:
            self._webhooks.rules.check(terms.webhook)
        if job_id is not None:
            check_job_id(job_id)
        job = Job(
            id=job_id or new_job_id(request.kind),
            kind=request.kind,
            origin=origin,
            request=request,
            settings=settings,
            save_images=save_images is not False,
            created_at=time.time(),
            terms=terms,
        )
        return self._queue.add(job, max_waiting=self.settings.current.max_queued_jobs)

    def estimate(self, request: GenerationRequest) -> dict[str, Any]:
        """Return what a request would take, as docs/estimate.md has it; nothing is loaded.

        Raises:
            InvalidRequest, UnknownName, ModelError: as `submit` does.
        """
        resolved, settings = self.resolve(request)
        past = self.jobs(statuses=(JobStatus.DONE,), limit=_PAST_JOBS)
        return self._preflight.estimate(resolved, settings, past, details_by(self.extensions))

    def add_input(self, data: bytes, field: str) -> InputImage:
        """Store a picture for a request to refer to; decodes it, so not for the event loop.

        Args:
            data: the file as it was sent.
            field: what errors call it.

        Raises:
            InvalidRequest: it cannot be read or is larger than `max_input_pixels`.
            StorageError: it could not be stored.
        """
        current = self.settings.current
        image = self.inputs.put(data, field, max_pixels=current.max_input_pixels)
        now = time.monotonic()
        if not self._inputs_cleaned or now - self._inputs_cleaned > _CLEAN_SECONDS:
            self._inputs_cleaned = now
            self.inputs.clean(
                {
                    image.sha256
                    for job in self._queue.newest(ACTIVE, current.max_queued_jobs + 1)
                    for image in job.request.inputs
                }.union(*(dependent.inputs_in_use() for dependent in self._dependents)),
                keep_days=current.inputs_keep_days,
                max_bytes=current.inputs_max_mib * _MIB,
            )
        return image

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

    def count_tokens(
        self, prompt: str, *, steps: int, styles: Sequence[str] = (), is_negative: bool = False
    ) -> tuple[int, int]:
        """Return (tokens, room in whole chunks) of the longest text that a prompt will be.

        Args:
            prompt: as typed.
            steps: of the sampler.
            styles: names of the styles to apply.
            is_negative: whether it is a negative prompt.
        """
        chosen = self.styles.chosen(styles)
        return count_prompt(
            prompt,
            self.library.tokenizer(),
            self.settings.current,
            steps=steps,
            styles=[style.negative_prompt if is_negative else style.prompt for style in chosen],
            is_negative=is_negative,
        )

    # --- inside ------------------------------------------------------------------------------

    def _with_overrides(
        self, request: GenerationRequest, current: Settings
    ) -> tuple[GenerationRequest, Settings]:
        """Return the request with the overrides that it may make, and its settings."""
        overrides = self._preflight.with_preset(permitted(request.overrides), current)
        if not overrides and not request.overrides:
            return request, current
        request = replace(request, overrides=overrides)
        settings = current.with_overrides(request.overrides)
        if CHECKED & request.overrides.keys():
            self._preflight.check_settings(settings.to_json())
        return request, settings

    def _settled(self, settings: Settings, title: str) -> Settings:
        """Return a job's settings with the memory mode that its checkpoint runs in."""
        self._monitor.wake()
        try:
            choice = self._preflight.mode_for(settings, title)
        except SdforgeError as error:
            log.debug("no memory mode chosen for %s: %s", title, error)
            return settings
        news = title.partition(" [")[0], choice.mode
        if choice.was_chosen and news != self._last_mode:
            self._last_mode = news
            log.info("memory mode for %s: %s (%s)", title, choice.mode, choice.reason)
        return settings.with_overrides({"memory_mode": choice.mode})

    def _on_finished(self, job: Job) -> None:
        self.tally.add(job)
        self._webhooks.tell(job)

    def _title_in_use(self, settings: Settings) -> str:
        return self._resolver.configured(settings).title
