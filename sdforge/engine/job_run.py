"""One job on the model thread: runs it, hands its pictures to the writer, records how it ended.

The model thread does not wait for the last pictures to be encoded: the job ends when the writer is
done with them, while the next job may already run. `worker.py` makes one of these per job.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from sdforge.core.errors import Cancelled, SdforgeError
from sdforge.core.events import Event, ImageSaved, StageStarted, StepDone
from sdforge.core.log_context import working_on
from sdforge.core.result import ImageResult
from sdforge.core.settings import Settings
from sdforge.engine.job import INTERRUPTED_ERROR, Job, JobError, JobImage, JobStatus
from sdforge.engine.picture_cache import PictureCache
from sdforge.engine.progress import ProgressMeter
from sdforge.engine.queue import JobQueue
from sdforge.engine.runner import Runner
from sdforge.engine.waiting import LiveJob

if TYPE_CHECKING:
    from sdforge.output.writer import EncodedImage, ImageWriter

log = logging.getLogger(__name__)

# Pixels that a job may keep for its grid, in bytes; a job with more gets none.
MAX_GRID_BYTES = 256 * 2**20


class JobRun:
    """The run of one job; `execute` is called once, on the model thread."""

    def __init__(
        self,
        queue: JobQueue,
        live: LiveJob,
        settings: Settings,
        writer: ImageWriter,
        cache: PictureCache,
    ) -> None:
        self._queue = queue
        self._live = live
        self._settings = settings
        self._writer = writer
        self._cache = cache
        self._id = live.job.id
        self._status = JobStatus.LOADING
        self._meter = ProgressMeter(live.job.request.batch_count)
        self._lock = threading.Lock()
        self._unwritten = 0
        self._for_grid: list[ImageResult] = []
        self._grid_bytes = 0
        self._write_error: JobError | None = None
        self._outcome: tuple[JobStatus, JobError | None] | None = None
        self._ended = 0.0

    def execute(
        self, get_runner: Callable[[], Runner], on_event: Callable[[Event], None]
    ) -> JobError | None:
        """Run the job to its end, whatever happens; never raises, returns why it failed."""

        def emit(event: Event) -> None:
            on_event(event)
            self._report(event)

        error: JobError | None = None
        try:
            with working_on(self._id):
                self._draw(get_runner(), emit)
            status = JobStatus.DONE
        except Cancelled:
            status = JobStatus.CANCELLED
            if self._queue.is_closing and not self._live.job.cancel_requested:
                status, error = JobStatus.INTERRUPTED, INTERRUPTED_ERROR
        except BaseException as raised:  # noqa: BLE001
            # Also SystemExit: nothing that a job does may end the only model thread.
            status, error = JobStatus.FAILED, JobError.of(raised)
            log_failure(f"job {self._id} failed", raised)
        self._end(status, error)
        return error

    def _draw(self, runner: Runner, emit: Callable[[Event], None]) -> None:
        self._check_cancelled()
        job = self._live.job
        results = runner.run(job.request, self._settings, emit, self._live.control)
        with ExitStack() as stack:
            if isinstance(results, Generator):
                # When handing over fails, its leases end here and not some time later.
                stack.callback(results.close)
            for result in results:
                self._hand_over(result)

    def _check_cancelled(self) -> None:
        if self._live.control.cancelled:
            raise Cancelled("the job was interrupted")

    def _report(self, event: Event) -> None:
        if isinstance(event, StepDone) or (
            isinstance(event, StageStarted) and event.stage != "load"
        ):
            self._status = JobStatus.RUNNING
        self._queue.report(self._id, event, self._meter.update(event), self._status)

    def _hand_over(self, result: ImageResult) -> None:
        job, settings = self._live.job, self._settings
        save = job.save_images and (settings.samples_save or result.processed is not None)
        save = save and (result.is_complete or settings.save_incomplete_images)
        if result.suffix and not save:
            return
        started_at = datetime.fromtimestamp(job.started_at or time.time()).astimezone()
        # As in A1111, the one folder for everything counts for the page only.
        is_together = job.origin == "ui" and settings.outdir_samples
        folder = "outdir_samples" if is_together else f"outdir_{job.kind}_samples"
        future = self._writer.save(
            result, settings, folder_setting=folder, save=save, started_at=started_at
        )
        self._expect(future, is_result=not result.suffix)
        if result.suffix:
            return
        if _wants_grid(job, settings):
            self._grid_bytes += result.pixels.nbytes
            self._for_grid.append(result)
            if self._grid_bytes > MAX_GRID_BYTES:
                self._for_grid.clear()

    def _hand_over_grid(self) -> None:
        pictures, self._for_grid = self._for_grid, []
        settings = self._settings
        if pictures and (len(pictures) > 1 or not settings.grid_only_if_multiple):
            folder = f"outdir_{self._live.job.kind}_grids"
            self._expect(
                self._writer.save_grid(
                    pictures, settings, folder_setting=folder, save=settings.grid_save
                )
            )

    def _expect(self, future: Future[EncodedImage], *, is_result: bool = True) -> None:
        with self._lock:
            self._unwritten += 1
        future.add_done_callback(partial(self._on_written, is_result=is_result))

    def _on_written(self, future: Future[EncodedImage], *, is_result: bool) -> None:
        """Record a picture, unless it is one from on the way; runs on the writer's thread."""
        try:
            encoded = future.result()
            if is_result:
                self._record(encoded)
        except BaseException as raised:  # noqa: BLE001 (whatever it is, the job must end)
            self._write_error = self._write_error or JobError.of(raised)
            log_failure(f"a picture of job {self._id} could not be written", raised)
            # Drawing more pictures that cannot be kept helps nobody.
            self._live.control.cancel()
        with self._lock:
            self._unwritten -= 1
        self._settle()

    def _record(self, encoded: EncodedImage) -> None:
        path = None if encoded.path is None else str(encoded.path)
        if path is None:
            self._cache.put(self._id, encoded.index, encoded.data, encoded.media_type)
        image = JobImage(
            index=encoded.index,
            path=path,
            media_type=encoded.media_type,
            infotext=encoded.infotext,
            seed=encoded.seed,
            width=encoded.width,
            height=encoded.height,
            processing=encoded.processing,
            bytes=len(encoded.data),
            sha256=hashlib.sha256(encoded.data).hexdigest(),
        )
        event = ImageSaved(index=encoded.index, path=path) if path else None
        self._queue.add_image(self._id, image, event)

    def _end(self, status: JobStatus, error: JobError | None) -> None:
        self._meter.finish()
        if status in (JobStatus.DONE, JobStatus.CANCELLED):
            self._hand_over_grid()
        with self._lock:
            self._outcome = (status, error)
            self._ended = time.monotonic()
        self._settle()

    def _settle(self) -> None:
        """Finish the job once the run has ended and all its pictures are written."""
        with self._lock:
            if self._outcome is None or self._unwritten:
                return
            # Taken, so that of two threads that get here only one goes on.
            (status, error), self._outcome = self._outcome, None
        if self._write_error is not None and status is not JobStatus.FAILED:
            status, error = JobStatus.FAILED, self._write_error
        self._queue.finish(self._id, status, error, self._timings())
        log.info("job %s: %s, %d pictures; %s", self._id, status.value,
                 len(self._live.job.images), _spoken(self._meter.timings))  # fmt: skip

    def _timings(self) -> dict[str, float]:
        """Return seconds by stage: before the run, in it, and until the last picture was there."""
        job = self._live.job
        waited = max((job.started_at or job.created_at) - job.created_at, 0.0)
        return {"wait": waited, **self._meter.timings, "save": time.monotonic() - self._ended}


def log_failure(what: str, error: BaseException) -> None:
    """Log an exception as text: a log record that held it would keep its frames and tensors."""
    if isinstance(error, SdforgeError):
        log.error("%s: %s", what, error.message)
    else:
        log.error("%s\n%s", what, "".join(traceback.format_exception(error)))


def _wants_grid(job: Job, settings: Settings) -> bool:
    is_drawn = job.request.extras is None
    return job.save_images and is_drawn and (settings.grid_save or settings.return_grid)


def _spoken(timings: dict[str, float]) -> str:
    return ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in timings.items())
