"""Our own routes for the queue: /api/v1/queue, and the places of waiting jobs in it.

And POST /api/v1/jobs/…: A1111's payloads as jobs that nobody holds a connection open for.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from pydantic import Field

from sdforge.api.context import ApiContext
from sdforge.api.jobs import describe_job
from sdforge.api.schemas import (
    ErrorBody,
    Img2ImgRequest,
    LenientInt,
    LenientModel,
    Txt2ImgRequest,
)
from sdforge.api.sdapi.sweep_scripts import sweep_script_of
from sdforge.api.submission import submitted, terms_of
from sdforge.api.translate import filled_in
from sdforge.core.errors import InvalidRequest
from sdforge.engine import Job
from sdforge.engine.job import MOST_PRIORITY

Priority = Annotated[
    int, Query(ge=-MOST_PRIORITY, le=MOST_PRIORITY, description="Higher ones run first.")
]
Key = Annotated[str | None, Header(description="The same key again within a day is the same job.")]
Webhook = Annotated[
    str | None, Query(description="Told when the job ends; docs/api.md has the rules.")
]
_RESPONSES: dict[int | str, dict[str, Any]] = {
    422: {"model": ErrorBody, "description": "A field cannot be used; it is named."},
    429: {"model": ErrorBody, "description": "Too many jobs wait."},
}


class PlaceRequest(LenientModel):
    """Where a waiting job shall stand; one of both."""

    index: LenientInt | None = Field(default=None, description="0 for the next to run.")
    priority: LenientInt | None = Field(
        default=None, description=f"-{MOST_PRIORITY} to {MOST_PRIORITY}; higher ones run first."
    )


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    engine = context.engine
    routes = APIRouter(prefix="/api/v1", tags=["queue"])

    @routes.get("/queue")
    def queue(request: Request) -> dict[str, Any]:
        """The running jobs and the waiting ones, in the order in which they will run."""
        return _state(context, request)

    @routes.post("/queue/pause")
    def pause(request: Request) -> dict[str, Any]:
        """Start no waiting job until `resume`, also after a restart; the running one goes on."""
        engine.pause()
        return _state(context, request)

    @routes.post("/queue/resume")
    def resume(request: Request) -> dict[str, Any]:
        """Let waiting jobs run again."""
        engine.pause(False)
        return _state(context, request)

    @routes.post("/queue/clear")
    def clear() -> dict[str, list[str]]:
        """Cancel all waiting jobs; the running one goes on."""
        return {"cancelled": engine.cancel_waiting()}

    return routes


def place_router(context: ApiContext) -> APIRouter:
    """Return the routes for single jobs: their place among the others, and once more."""
    engine = context.engine
    routes = APIRouter(prefix="/api/v1", tags=["queue"])

    @routes.post("/jobs/{job_id}/place")
    def place(request: Request, job_id: str, body: PlaceRequest) -> dict[str, Any]:
        """Move a waiting job, or give it another priority; returns the queue."""
        if body.priority is not None:
            engine.prioritise(job_id, body.priority)
        if body.index is not None:
            engine.move(job_id, body.index)
        if body.priority is None and body.index is None:
            engine.get(job_id)
        return _state(context, request)

    @routes.post("/jobs/{job_id}/retry", status_code=202)
    def retry(request: Request, job_id: str, rest: bool = False) -> dict[str, Any]:
        """Queue a finished job again, with its seeds and settings, and return the new job.

        With `rest` only the batches that it did not finish.
        """
        return _describe(context, request, engine.retry(job_id, rest=rest))

    return routes


def submit_router(context: ApiContext) -> APIRouter:
    """Return the routes that queue A1111's payloads."""
    routes = APIRouter(prefix="/api/v1", tags=["queue"])

    async def submit(
        request: Request, payload: LenientModel, kind: str, priority: int, key: str | None,
        webhook: str | None,
    ) -> dict[str, Any]:  # fmt: skip
        terms = terms_of(payload, kind, priority=priority, key=key, webhook=webhook)
        values = filled_in(payload)
        if sweep_script_of(values) is not None:
            raise InvalidRequest("script_name", values["script_name"], "sweeps at /api/v1/sweeps")
        job = await asyncio.to_thread(submitted, context, values, kind, terms)
        return _describe(context, request, job)

    @routes.post("/jobs/txt2img", status_code=202, responses=_RESPONSES)
    async def txt2img(
        request: Request, payload: Txt2ImgRequest, priority: Priority = 0,
        idempotency_key: Key = None, webhook: Webhook = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Queue a txt2img payload of A1111's and return the job at once."""
        return await submit(request, payload, "txt2img", priority, idempotency_key, webhook)

    @routes.post("/jobs/img2img", status_code=202, responses=_RESPONSES)
    async def img2img(
        request: Request, payload: Img2ImgRequest, priority: Priority = 0,
        idempotency_key: Key = None, webhook: Webhook = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Queue an img2img payload of A1111's and return the job at once."""
        return await submit(request, payload, "img2img", priority, idempotency_key, webhook)

    return routes


def _describe(context: ApiContext, request: Request, job: Job) -> dict[str, Any]:
    root = request.scope.get("root_path", "")
    return describe_job(job, context.engine.queue_position(job.id), root)


def _state(context: ApiContext, request: Request) -> dict[str, Any]:
    engine = context.engine
    return {
        "paused": engine.is_paused,
        "running": [_describe(context, request, job) for job in engine.running()],
        "waiting": [_describe(context, request, job) for job in engine.waiting()],
        "max_waiting": engine.settings.current.max_queued_jobs,
    }
