"""/internal: what A1111's page polls, and ours too."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pybase64
from fastapi import APIRouter

from sdforge.api.context import ApiContext
from sdforge.api.schemas import ProgressRequest
from sdforge.core.errors import NotFound
from sdforge.core.settings import OPTIONS
from sdforge.engine import ACTIVE, Engine, Job, JobStatus

_QUICK_SETTINGS = ("sd_model_checkpoint", "sd_vae", "CLIP_stop_at_last_layers")


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    engine = context.engine
    routes = APIRouter(prefix="/internal", tags=["page"])

    @routes.get("/ping")
    async def ping() -> dict[str, Any]:
        """Answers, so that the page notices when the server is back."""
        return {}

    @routes.get("/pending-tasks")
    def pending_tasks() -> dict[str, Any]:
        """Ids of the jobs that wait or run, oldest first."""
        ids = [job.id for job in reversed(engine.jobs(statuses=ACTIVE, limit=1_000_000))]
        return {"size": len(ids), "tasks": ids}

    @routes.post("/progress")
    def progress(request: ProgressRequest) -> dict[str, Any]:
        """How far one job is; a preview only when there is a newer one than the page has.

        With `with_job` there is also what changes while a job runs: a page that asks often need not
        ask for the whole job each time.
        """
        try:
            job = engine.get(request.id_task or "")
        except NotFound:
            return _answer(None, "Waiting...")
        more = {"job": _changing(job)} if request.with_job else {}
        if job.status is JobStatus.QUEUED:
            return _answer(job, _queue_text(engine, job)) | more
        answer = _answer(job, job.progress.text) | more
        answer["id_live_preview"] = request.id_live_preview
        if request.live_preview and job.settings.live_previews_enable and not job.is_finished:
            answer |= _preview(engine, job.id, request.id_live_preview)
        return answer

    @routes.get("/quicksettings-hint")
    def quick_settings() -> list[dict[str, str]]:
        """Settings that are worth a place at the top of the page."""
        return [{"name": key, "label": OPTIONS[key].label} for key in _QUICK_SETTINGS]

    return routes


def _answer(job: Job | None, text: str) -> dict[str, Any]:
    running = job is not None and job.status in ACTIVE and job.status is not JobStatus.QUEUED
    return {
        "active": running,
        "queued": job is not None and job.status is JobStatus.QUEUED,
        "completed": job is not None and job.is_finished,
        "progress": job.progress.fraction if job is not None and running else None,
        "eta": job.progress.eta_seconds if job is not None and running else None,
        "live_preview": None,
        "id_live_preview": -1,
        "textinfo": text,
    }


def _changing(job: Job) -> dict[str, Any]:
    return {
        "status": job.status.value,
        "cancel_requested": job.cancel_requested,
        "progress": asdict(job.progress),
        "pictures": len(job.images),
    }


def _queue_text(engine: Engine, job: Job) -> str:
    position = engine.queue_position(job.id)
    if position is None:
        return "Waiting..."
    waiting = len(engine.jobs(statuses=ACTIVE, limit=1_000_000))
    return f"In queue: {position + 1}/{waiting}"


def _preview(engine: Engine, job_id: str, known: int) -> dict[str, Any]:
    preview = engine.preview(job_id)
    if preview is None or preview[0] == known:
        return {}
    number, data, media_type = preview
    encoded = pybase64.b64encode_as_string(data)
    return {"live_preview": f"data:{media_type};base64,{encoded}", "id_live_preview": number}
