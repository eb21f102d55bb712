"""Our own routes: /api/v1 (jobs, their pictures and events, status) and health checks.

Made for pages and scripts that do not want to hold a request open while they wait.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import quote

import pybase64
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from sdforge.api.context import ApiContext
from sdforge.api.waiting import job_events
from sdforge.core.events import JobEvent, PreviewReady
from sdforge.engine import Job, JobImage, JobStatus

HEARTBEAT_SECONDS = 15.0


def router(context: ApiContext) -> APIRouter:
    """Return the routes under /api/v1."""
    engine = context.engine
    routes = APIRouter(prefix="/api/v1", tags=["jobs"])

    def describe(request: Request, job: Job) -> dict[str, Any]:
        root = request.scope.get("root_path", "")
        return describe_job(job, engine.queue_position(job.id), root)

    @routes.get("/jobs")
    def list_jobs(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        status: Annotated[list[JobStatus] | None, Query()] = None,
    ) -> list[dict[str, Any]]:
        """Jobs, newest first; `status` may be given several times."""
        jobs = engine.jobs(statuses=status or None, limit=limit)
        return [describe(request, job) for job in jobs]

    @routes.get("/jobs/{job_id}")
    def get_job(request: Request, job_id: str) -> dict[str, Any]:
        """One job: request, status, progress, pictures, error."""
        return describe(request, engine.get(job_id))

    @routes.get("/jobs/{job_id}/images/{index}", response_class=Response)
    def get_image(job_id: str, index: int) -> Response:
        """A finished picture as a file, with its infotext inside; -1 is the grid."""
        data, media_type = engine.image_data(job_id, index)
        # A picture never changes, and ids are not used twice.
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return Response(data, media_type=media_type, headers=headers)

    @routes.get("/jobs/{job_id}/preview", response_class=Response)
    def get_preview(job_id: str) -> Response:
        """The newest preview of a running job as a file; 204 while there is none."""
        engine.get(job_id)
        preview = engine.preview(job_id)
        if preview is None:
            return Response(status_code=204)
        number, data, media_type = preview
        headers = {"Cache-Control": "no-store", "X-Preview-Number": str(number)}
        return Response(data, media_type=media_type, headers=headers)

    @routes.post("/jobs/{job_id}/cancel")
    def cancel(request: Request, job_id: str) -> dict[str, Any]:
        """Stop a job: a waiting one at once, a running one at its next step."""
        engine.cancel(job_id)
        return describe(request, engine.get(job_id))

    @routes.post("/jobs/{job_id}/skip")
    def skip(request: Request, job_id: str) -> dict[str, Any]:
        """End a running job's batch at its next step and go on with the next batch."""
        engine.skip(job_id)
        return describe(request, engine.get(job_id))

    @routes.get("/jobs/{job_id}/events", response_class=StreamingResponse)
    def events(
        job_id: str,
        after: Annotated[int, Query(ge=0)] = 0,
        previews: bool = True,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        """Server-sent events of a job: past ones, then live ones; ends after `JobFinished`.

        A client that comes back sends Last-Event-ID (browsers do) and goes on where it was.
        """
        engine.get(job_id)
        start = int(last_event_id) if last_event_id and last_event_id.isdecimal() else after
        stream = _event_stream(context, job_id, start, previews)
        # `X-Accel-Buffering`: nginx would hold the events back.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    return routes


def status_router(context: ApiContext) -> APIRouter:
    """Return the server's state, and the checks that container managers make."""
    engine = context.engine
    routes = APIRouter(tags=["status"])

    @routes.get("/api/v1/status")
    def status() -> dict[str, Any]:
        """Whether jobs can run at once, what is loaded, and how much waits."""
        model = engine.model_state()
        waiting = engine.jobs(statuses=(JobStatus.QUEUED,), limit=1_000_000)
        running = engine.current()
        return {
            "ready": not model["loading"],
            "model": model,
            "memory": engine.memory_mode(),
            "version": context.version,
            "model_changes": context.library.changes,
            "queued": len(waiting),
            "running": running.id if running else None,
        }

    @routes.get("/healthz")
    async def healthz() -> dict[str, Any]:
        """200 as long as the server answers."""
        return {"status": "ok"}

    @routes.get("/readyz")
    async def readyz() -> JSONResponse:
        """200 when jobs can run at once, 503 while a checkpoint loads."""
        loading = engine.model_state()["loading"]
        body = {"status": "loading" if loading else "ready"}
        return JSONResponse(body, 503 if loading else 200)

    return routes


def describe_job(job: Job, position: int | None, root: str = "") -> dict[str, Any]:
    """Return a job as JSON types.

    Args:
        job: what to describe.
        position: how many jobs run before it; None when it does not wait.
        root: path under which the server is reached (`--subpath`), for the pictures' URLs.
    """
    base = f"{root}/api/v1/jobs/{quote(job.id, safe='()')}"

    def describe_image(image: JobImage) -> dict[str, Any]:
        return asdict(image) | {"url": f"{base}/images/{image.index}"}

    return {
        "id": job.id,
        "kind": job.kind,
        "origin": job.origin,
        "status": job.status.value,
        "cancel_requested": job.cancel_requested,
        "queue_position": position,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "progress": asdict(job.progress),
        "images": [describe_image(image) for image in job.images],
        "grid": describe_image(job.grid) if job.grid else None,
        "error": asdict(job.error) if job.error else None,
        "request": job.request.to_json(),
        "timings": dict(job.timings),
        "priority": job.terms.priority,
        "retry_of": job.terms.retry_of,
    }


async def _event_stream(
    context: ApiContext, job_id: str, after: int, previews: bool
) -> AsyncIterator[bytes]:
    # Told at once, so that the client sees the stream open before anything happens.
    yield b"retry: 2000\n\n"
    async for event in job_events(context.engine, job_id, after, HEARTBEAT_SECONDS):
        if event is None:
            yield b": nothing new\n\n"
        elif previews or not isinstance(event.event, PreviewReady):
            yield format_event(event)


def format_event(event: JobEvent) -> bytes:
    """Return an event in the format of server-sent events."""
    kind = type(event.event).__name__
    data = json.dumps(_event_data(event), ensure_ascii=False)
    return f"id: {event.sequence}\nevent: {kind}\ndata: {data}\n\n".encode("utf-8", "replace")


def _event_data(event: JobEvent) -> Mapping[str, Any]:
    if isinstance(event.event, PreviewReady):
        preview = event.event
        encoded = pybase64.b64encode_as_string(preview.image)
        return {"step": preview.step, "image": f"data:{preview.media_type};base64,{encoded}"}
    return asdict(event.event)
