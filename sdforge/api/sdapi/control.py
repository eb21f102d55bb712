"""Progress of the running job, interrupt and skip: A1111's polling interface.

All of it answers while pictures are drawn; nothing here waits for a job.
"""

from __future__ import annotations

from typing import Any

import pybase64
from fastapi import APIRouter

from sdforge.api.context import ApiContext
from sdforge.api.generation_response import job_timestamp
from sdforge.engine import Engine, Job, JobStatus

# A1111 reports this from the moment a job begins; clients take 0 for "nothing to do".
_BEGUN = 0.01


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    engine = context.engine
    routes = APIRouter(prefix="/sdapi/v1", tags=["control"])

    @routes.get("/progress")
    async def progress(skip_current_image: bool = False) -> dict[str, Any]:
        """How far the running job is, with its newest preview as base64.

        Progress is 0 and job_count 0 only when nothing runs, waits or loads.
        """
        # On the event loop, since nothing here waits for a lock or a disk: the way over another
        # thread would wait for the interpreter twice more, while the model thread keeps it.
        is_waiting = engine.has_waiting
        job = engine.current()
        if job is None:
            return _without_job(engine, is_waiting=is_waiting)
        return _of_job(engine, job, with_image=not skip_current_image)

    @routes.post("/interrupt")
    def interrupt() -> dict[str, Any]:
        """Stop the running job at its next step; its request answers with what there is."""
        # A cell is a job; what its user sees and wants to stop is the sweep.
        if not context.sweeps.interrupt():
            engine.cancel()
        return {}

    @routes.post("/skip")
    def skip() -> None:
        """End the running batch at its next step and go on with the next one."""
        engine.skip()

    return routes


def _of_job(engine: Engine, job: Job, *, with_image: bool) -> dict[str, Any]:
    now = job.progress
    loading = job.status is JobStatus.LOADING
    image = None
    if with_image and job.settings.live_previews_enable:
        preview = engine.preview(job.id)
        image = pybase64.b64encode_as_string(preview[1]) if preview else None
    several = now.batch_count > 1 and not loading
    return {
        "progress": _BEGUN if loading else now.fraction,
        "eta_relative": now.eta_seconds or 0.0,
        "state": {
            "skipped": False,
            "interrupted": job.cancel_requested,
            "stopping_generation": False,
            "job": f"Batch {now.batch + 1} out of {now.batch_count}" if several
                   else f"scripts_{job.kind}",
            "job_count": -1 if loading else now.batch_count,
            "job_timestamp": job_timestamp(job),
            "job_no": now.batch,
            "sampling_step": now.step,
            "sampling_steps": now.steps,
        },
        "current_image": image,
        "textinfo": now.text or None,
    }  # fmt: skip


def _without_job(engine: Engine, *, is_waiting: bool) -> dict[str, Any]:
    """Answer between jobs: nothing to do, or a job or checkpoint that is about to come."""
    model = engine.model_state()
    busy = bool(model["loading"] or is_waiting)
    text = f"Loading {model['title']}".strip() if model["loading"] else None
    return {
        "progress": _BEGUN if busy else 0.0,
        "eta_relative": 0.0,
        "state": {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": "",
            "job_count": -1 if busy else 0,
            "job_timestamp": "0",
            "job_no": 0,
            "sampling_step": 0,
            "sampling_steps": 0,
        },
        "current_image": None,
        "textinfo": text,
    }
