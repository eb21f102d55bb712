"""The model thread: takes the next job, runs it, takes the next; loads and unloads in between.

Exactly one thread touches models and the device, from start to stop. `JobRun` does one job; this
file knows the runner and what is loaded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sdforge.core.errors import SdforgeError
from sdforge.core.events import Event, ModelLoading, StageStarted, StepDone
from sdforge.core.frame import Frame, FrameRequest
from sdforge.core.model_choice import ModelChoice
from sdforge.core.settings import Settings
from sdforge.engine.job import JobError, JobStatus
from sdforge.engine.job_run import JobRun, log_failure
from sdforge.engine.picture_cache import PictureCache
from sdforge.engine.queue import JobQueue
from sdforge.engine.runner import Runner
from sdforge.engine.waiting import Chore, LiveJob
from sdforge.pipeline.context import RunControl

if TYPE_CHECKING:
    from sdforge.output.writer import ImageWriter

log = logging.getLogger(__name__)

# Settings of the machine, not of a picture: a job that waited runs with what holds now.
MACHINE_SETTINGS = (
    "forge_inference_memory",
    "memory_mode",
    "models_idle_minutes",
    "models_memory_limit",
    "sd_checkpoints_limit",
)
# How often somebody looks whether models have to give memory back.
TEND_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """What is loaded, or being loaded; `error` is why the last attempt failed."""

    title: str = ""
    loading: bool = False
    fraction: float = 0.0
    error: str | None = None


class Worker:
    """The model thread and what it holds."""

    def __init__(
        self,
        queue: JobQueue,
        make_runner: Callable[[], Runner],
        current_settings: Callable[[], Settings],
        writer: ImageWriter,
        cache: PictureCache,
        settle: Callable[[Settings, str], Settings] = lambda settings, title: settings,
    ) -> None:
        """Start nothing yet; `settle` fills in what settings leave to the machine."""
        self._queue = queue
        self._settle = settle
        self._writer = writer
        self._cache = cache
        self._make_runner = make_runner
        self._current_settings = current_settings
        self._runner: Runner | None = None
        self._state = ModelState()
        self._wanted: Callable[[], str] | None = None
        self._expected: tuple[ModelChoice, ...] = ()
        self._must_announce = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="sdforge-model", daemon=True)
        self._tender = threading.Thread(target=self._look_after, name="sdforge-tend", daemon=True)

    @property
    def model_state(self) -> ModelState:
        """What is loaded; may be read from any thread."""
        return self._state

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()
        self._tender.start()

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the thread to end; return whether it has."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def preload(self, find_title: Callable[[], str]) -> Future[None]:
        """Load the checkpoint that `find_title` names before the next job.

        Of several that wait only the last one loads: somebody is leafing through a list.
        """
        self._wanted = find_title
        return self._queue.add_chore(partial(self._preload, find_title))

    def expect(self, choices: Sequence[ModelChoice]) -> None:
        """Take note of the models that will be needed, for when the next job starts.

        When none is needed any more, what was read ahead leaves before the next job.
        """
        before, self._expected = self._expected, tuple(choices)
        if before and not self._expected:
            self._queue.add_chore(self._forget_ahead)

    def unload(self, title: str = "", *, device_only: bool = False) -> Future[None]:
        """Give back the memory of all models, or of one, before the next job.

        With `device_only` all leave the device and stay in main memory.
        """
        return self._queue.add_chore(partial(self._unload, title, device_only))

    def draw_frame(self, wanted: FrameRequest, settings: Settings) -> Frame:
        """Draw one frame of live mode now; to be called on the model thread only.

        Raises:
            Cancelled: a job came; the frame stopped at its next step.
        """
        title = wanted.request.checkpoint
        settings = self._settle(settings, title)
        control = RunControl()

        def emit(event: Event) -> None:
            self._watch(title, event)
            if isinstance(event, StepDone) and event.step < event.steps and self._queue.has_work:
                control.cancel()

        try:
            frame = self._get_runner().frame(wanted, settings, emit, control)
        except BaseException as raised:
            if self._state.loading or self._runner is None:
                # It ended before the model was there.
                self._state = ModelState(error=JobError.of(raised).message)
            raise
        self._loaded(title)
        return frame

    def memory_report(self) -> dict[str, Any]:
        """Return who holds how many bytes; empty before anything was loaded."""
        runner = self._runner
        return runner.memory_report() if runner is not None else {}

    def _loop(self) -> None:
        while (task := self._queue.next()) is not None:
            if isinstance(task, Chore):
                _do(task)
            else:
                self._run(task)
        _do(Chore(self._unload))
        self._ended.set()

    def _look_after(self) -> None:
        """Have the model thread give memory back when that is due, between its jobs."""
        while not self._ended.wait(TEND_SECONDS):
            runner = self._runner
            if runner is not None and runner.wants_tending():
                futures.wait([self._queue.add_chore(self._tend)])

    def _tend(self) -> None:
        if self._runner is not None and self._runner.tend():
            self._state = ModelState()

    def _run(self, live: LiveJob) -> None:
        job = live.job
        now = self._current_settings()
        machine = {
            key: getattr(now, key) for key in MACHINE_SETTINGS if key not in job.request.overrides
        }
        settings = self._settle(job.settings.with_overrides(machine), job.request.checkpoint)
        run = JobRun(self._queue, live, settings, self._writer, self._cache)
        self._must_announce = True
        try:
            error = run.execute(
                self._get_runner, partial(self._watch_job, job.request.checkpoint, settings)
            )
        except BaseException as raised:  # noqa: BLE001 (a fault of the engine itself)
            log_failure(f"job {job.id} could not be ended", raised)
            error = JobError.of(raised)
            self._queue.finish(job.id, JobStatus.FAILED, error)
        if self._state.loading or self._runner is None:
            # It ended before the model was there.
            self._state = ModelState(error=error.message if error else None)

    def _watch_job(self, title: str, settings: Settings, event: Event) -> None:
        self._watch(title, event)
        # Not before the job's own models are read: two readers would slow each other down.
        if isinstance(event, StageStarted) and event.stage == "denoise" and self._must_announce:
            self._must_announce = False
            self._announce(settings)

    def _announce(self, settings: Settings) -> None:
        """Tell the runner what comes after this job, so that it reads ahead meanwhile."""
        try:
            self._get_runner().expect(self._expected, settings)
        except SdforgeError as error:
            # The job that needs it will say so.
            log.info("what comes next is not read ahead: %s", error)

    def _forget_ahead(self) -> None:
        if self._runner is not None and not self._expected:
            self._announce(self._current_settings())

    def _get_runner(self) -> Runner:
        if self._runner is None:
            self._runner = self._make_runner()
        return self._runner

    def _watch(self, title: str, event: Event) -> None:
        """Keep the model state true to what the runner reports; "" is a job without a model."""
        if isinstance(event, ModelLoading):
            # The refiner's or hires fix's may be another than the job's.
            self._state = ModelState(title=event.name, loading=True, fraction=event.fraction)
        elif isinstance(event, StageStarted) and title:
            if event.stage != "load":
                self._loaded(title)
            elif self._state.title != title:
                self._state = ModelState(title=title, loading=True)

    def _loaded(self, title: str) -> None:
        if self._state.loading or self._state.title != title:
            self._state = ModelState(title=title, fraction=1.0)

    def _preload(self, find_title: Callable[[], str]) -> None:
        if find_title is not self._wanted:
            return
        self._state = replace(self._state, loading=True, fraction=0.0, error=None)
        try:
            title = find_title()
            self._state = replace(self._state, title=title)
            settings = self._settle(self._current_settings(), title)
            self._get_runner().preload(title, settings, partial(self._watch, title))
            self._loaded(title)
        except BaseException as raised:
            self._state = ModelState(error=JobError.of(raised).message)
            raise

    def _unload(self, title: str = "", device_only: bool = False) -> None:
        if self._runner is None:
            return
        if device_only:
            self._runner.leave_device()
        elif title:
            self._runner.unload_one(title)
            if title == self._state.title:
                self._state = ModelState()
        else:
            self._runner.unload()
            self._state = ModelState()


def _do(chore: Chore) -> None:
    """Do a chore; its caller gets the error, without the frames and tensors it came from."""
    if not chore.done.set_running_or_notify_cancel():
        return
    try:
        chore.action()
    except BaseException as raised:  # noqa: BLE001 (nothing may end the model thread)
        log_failure("a task between jobs failed", raised)
        chore.done.set_exception(_bare(raised))
    else:
        chore.done.set_result(None)


def _bare(error: BaseException) -> BaseException:
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error
