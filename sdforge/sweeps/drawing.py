"""Cells become jobs, and jobs become pictures of cells: one step of all sweeps that run.

A few cells are in the engine's queue at a time, so that other people's jobs get their turn between
them, and the model thread always finds one waiting. Called by `sweeps.py` under its lock.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from sdforge.core.errors import (
    InvalidRequest,
    NotFound,
    QueueFull,
    SdforgeError,
    StorageError,
)
from sdforge.core.model_choice import ModelChoice
from sdforge.core.settings import write_atomically
from sdforge.engine import DuplicateJob, Engine, Job, JobError, JobImage, JobStatus
from sdforge.sweeps.manifest import Cell, CellPicture, CellStatus, SweepStatus
from sdforge.sweeps.running import RunningSweep
from sdforge.sweeps.store import SweepStore

log = logging.getLogger(__name__)

# Jobs of sweeps that are in the engine's queue: one runs, and the next must be there when it ends.
WINDOW = 2
# How many of the models to come the engine is told of.
_FORESEEN = 3
# How often a cell is drawn of our own accord, when its pictures get lost.
_MOST_ATTEMPTS = 3
ORIGIN = "sweep"
_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


def collect(engine: Engine, running: RunningSweep, folder: Path) -> None:
    """Take over what the jobs of a sweep have become.

    Args:
        engine: that runs them.
        running: the sweep.
        folder: where pictures go that were not saved.
    """
    for cell in running.running:
        try:
            job = engine.get(cell.job)
        except NotFound:
            # It was never queued: the server stopped between the two.
            running.put_back(cell.index)
            continue
        stopped = running.status is SweepStatus.CANCELLED and job.status is JobStatus.CANCELLED
        if stopped or job.status is JobStatus.INTERRUPTED:
            running.put_back(cell.index, again=True)
        elif job.is_finished:
            _settle(engine, running, cell, job, folder)


def _settle(engine: Engine, running: RunningSweep, cell: Cell, job: Job, folder: Path) -> None:
    seconds = (job.finished_at or 0.0) - (job.started_at or job.finished_at or 0.0)
    status, error = CellStatus.DONE, job.error
    pictures: list[CellPicture] = []
    try:
        pictures = [_picture(engine, job, cell, image, folder) for image in job.images]
    except NotFound as raised:
        # It was in memory alone, and the server stopped before it was written.
        if cell.attempt < _MOST_ATTEMPTS:
            running.put_back(cell.index, again=True)
            return
        error = JobError.of(raised)
    except SdforgeError as raised:
        error = JobError.of(raised)
    if job.status is JobStatus.CANCELLED:
        status = CellStatus.SKIPPED
    elif error is not None:
        status = CellStatus.FAILED
        log.warning("cell %d of %s failed: %s", cell.index, running.id, error.message)
    running.settle(cell.index, status, pictures=pictures, error=error, seconds=seconds)


def _picture(engine: Engine, job: Job, cell: Cell, image: JobImage, folder: Path) -> CellPicture:
    """Return a picture of a cell; one that only memory holds is written to the sweep's folder."""
    path = image.path
    if path is None:
        data, media_type = engine.image_data(job.id, image.index)
        name = f"{cell.index:05}-{cell.attempt}-{image.index}{_SUFFIXES.get(media_type, '.png')}"
        write_atomically(folder / name, data)
        path = str(folder / name)
    return CellPicture(
        path=path,
        media_type=image.media_type,
        infotext=image.infotext,
        seed=image.seed,
        width=image.width,
        height=image.height,
    )


def submit_some(engine: Engine, store: SweepStore, sweeps: Sequence[RunningSweep]) -> bool:
    """Queue cells of the oldest sweeps; return False when that must be tried again later."""
    room = WINDOW - sum(len(one.running) for one in sweeps)
    for running in sweeps:
        while room > 0 and running.status is SweepStatus.RUNNING and running.waiting:
            if not _submit(engine, store, running, running.waiting[0]):
                return False
            room -= 1
    return True


def _submit(engine: Engine, store: SweepStore, running: RunningSweep, index: int) -> bool:
    try:
        request = store.request(running.id, index)
        job = running.begin(index)
        # Before the job is there: after a crash it is looked for by its id.
        running.save(store)
    except StorageError as error:
        log.warning("cell %d of %s must wait: %s", index, running.id, error)
        if index not in running.waiting:
            running.put_back(index)
        return False
    manifest = running.manifest
    try:
        # A cell is one part of a grid and needs none of its own.
        settings = manifest.settings.with_overrides(
            {**request.overrides, "grid_save": False, "return_grid": False}
        )
        engine.submit_resolved(
            request, settings, job_id=job, origin=ORIGIN, save_images=manifest.save_images
        )
    except DuplicateJob:
        log.debug("the job %s is there already", job)
    except (QueueFull, StorageError) as error:
        log.info("cell %d of %s must wait: %s", index, running.id, error)
        running.put_back(index)
        return False
    except InvalidRequest as error:
        running.settle(index, CellStatus.FAILED, error=JobError.of(error))
    return True


def foreseen(sweeps: Sequence[RunningSweep]) -> list[ModelChoice]:
    """Return the models of the cells that are queued, then some of those to come, soonest first."""
    found: dict[ModelChoice, None] = {}
    for running in sweeps:
        for cell in running.running:
            found |= dict.fromkeys(running.manifest.models[cell.index], None)
    most = len(found) + _FORESEEN
    for running in sweeps:
        if running.status is not SweepStatus.RUNNING:
            continue
        for index in running.waiting:
            found |= dict.fromkeys(running.manifest.models[index], None)
            if len(found) >= most:
                return list(found)[:most]
    return list(found)
