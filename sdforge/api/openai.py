"""/v1/images and /v1/models: OpenAI's images API over the same queue of jobs.

Its clients work as they are: point `base_url` at `/v1` and, where a password is set, give
`user:password` as the key. Streams send previews as partial images.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Annotated, Any

import pybase64
from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from sdforge.api.context import ApiContext
from sdforge.api.jobs import HEARTBEAT_SECONDS
from sdforge.api.openai_schemas import MOST_PICTURES, OWN_NAMES, ImageParameters
from sdforge.api.translate_references import FIELD as REFERENCES
from sdforge.api.waiting import job_events, wait_finished
from sdforge.core.errors import InvalidRequest, NotFound, SdforgeError
from sdforge.core.events import PreviewReady
from sdforge.core.fields import FIELD
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest
from sdforge.engine import Job, JobStatus

_MOST_FILE_BYTES = 50 * 2**20


_EDITS_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "prompt"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "mask": {"type": "string", "format": "binary"},
                        "prompt": {"type": "string"},
                    },
                }
            }
        },
    }
}


class OpenAIRoute(APIRoute):
    """Answers errors as OpenAI does: {"error": {"message", "type", "param", "code"}}."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, wrapped."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except (RequestValidationError, ValidationError) as error:
                first = error.errors()[0]
                param = ".".join(str(part) for part in first["loc"] if part != "body")
                return openai_error(400, f"{param}: {first['msg']}", param)
            except InvalidRequest as error:
                return openai_error(400, error.message, error.field)
            except SdforgeError as error:
                return openai_error(error.status, error.message, None)
            except HTTPException as error:
                return openai_error(error.status_code, error.detail, None)

        return handle


def openai_error(status: int, message: str, param: str | None) -> JSONResponse:
    """Return an error in OpenAI's shape."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": param, "code": None}
    return JSONResponse({"error": error}, status)


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAIRoute)

    @routes.get("/models")
    def models() -> dict[str, Any]:
        """The checkpoints that can run."""
        found = [_model(info.title, info.path) for info in _usable(context)]
        return {"object": "list", "data": found}

    @routes.get("/models/{name:path}")
    def model(name: str) -> dict[str, Any]:
        """One checkpoint, by any of its names."""
        try:
            info: Any = context.library.find(name)
        except InvalidRequest as error:
            raise NotFound(error.message) from error
        return _model(info.title, info.path)

    @routes.post("/images/generations", response_class=Response)
    async def generations(body: ImageParameters, request: Request) -> Response:
        """Draw pictures; with `stream` as server-sent events, partial ones first."""
        return await _answer(context, request, body, "image_generation", (), None)

    @routes.post("/images/edits", response_class=Response, openapi_extra=_EDITS_BODY)
    async def edits(request: Request, form: Annotated[dict[str, Any], Depends(_form)]) -> Response:
        """Draw over a picture, or over the transparent part of its mask."""
        images, mask = form.pop("images"), form.pop("mask")
        body = ImageParameters.model_validate(form)
        return await _answer(context, request, body, "image_edit", images, mask)

    return routes


async def _form(request: Request) -> dict[str, Any]:
    """Return the fields of a multipart form, its files as bytes."""
    values: dict[str, Any] = {"images": [], "mask": None}
    async with request.form(
        max_files=MOST_PICTURES + 1, max_fields=100, max_part_size=_MOST_FILE_BYTES
    ) as form:
        for key, value in form.multi_items():
            if not isinstance(value, UploadFile):
                values[key] = value
            elif key in ("image", "image[]"):
                values["images"].append(await value.read())
            elif key == "mask":
                values["mask"] = await value.read()
    if not values["images"]:
        raise InvalidRequest("image", "nothing", "a picture file")
    return values


def _usable(context: ApiContext) -> list[Any]:
    return [info for info in context.library.checkpoints() if info.error is None]


def _model(title: str, path: Any) -> dict[str, Any]:
    try:
        created = int(path.stat().st_mtime)
    except OSError:
        created = 0
    name = title.partition(" [")[0]
    return {"id": name, "object": "model", "created": created, "owned_by": "sdforge"}


async def _answer(
    context: ApiContext, request: Request, body: ImageParameters, event: str,
    images: list[bytes] | tuple[()], mask: bytes | None,
) -> Response:  # fmt: skip
    engine = context.engine
    job = await asyncio.to_thread(_submit, context, body, images, mask)
    if body.stream:
        stream = _stream(context, body, job, event)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Job-Id": job.id}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)
    job = _finished(await wait_finished(engine, job.id, lambda job: None))
    files = await asyncio.to_thread(_files, context, job)
    root = str(request.base_url).rstrip("/")
    data = [
        {"url": f"{root}/api/v1/jobs/{job.id}/images/{index}"}
        if body.response_format == "url"
        else {"b64_json": _encoded(file)}
        for index, file in enumerate(files)
    ]
    values = {"created": int(job.created_at), "data": data, **_about(body, job)}
    return JSONResponse(values, headers={"X-Job-Id": job.id})


def _submit(
    context: ApiContext, body: ImageParameters, images: list[bytes] | tuple[()], mask: bytes | None
) -> Job:
    engine = context.engine
    width, height = body.size_in_pixels
    stored: tuple[InputImage, ...] = tuple(engine.add_input(data, "image") for data in images)
    steps = body.step_count
    overrides: dict[str, Any] = {
        "samples_format": "jpg" if body.output_format == "jpeg" else body.output_format,
        "jpeg_quality": max(body.output_compression, 1),
    }
    if body.stream and body.partial_images:
        overrides |= {
            "live_previews_enable": True,
            "live_previews_image_format": body.output_format,
            "show_progress_every_n_steps": min(max(steps // (body.partial_images + 1), 1), 32),
        }
    if body.model and not OWN_NAMES.fullmatch(body.model):
        overrides["sd_model_checkpoint"] = body.model
    wanted = GenerationRequest(
        prompt=body.prompt,
        negative_prompt=body.negative_prompt,
        batch_count=body.n,
        width=width or (stored[0].width if stored else None),
        height=height or (stored[0].height if stored else None),
        steps=steps,
        sampler=body.sampler_name or FIELD["sampler"].default,
        cfg_scale=body.cfg_scale,
        seed=body.seed,
        init_images=stored[:1],
        references=stored[1:],
        mask=engine.add_input(_repainted(mask), "mask") if mask and stored else None,
        denoising_strength=body.strength if stored else None,
        overrides=overrides,
    )
    try:
        return engine.submit(wanted, save_images=False)
    except InvalidRequest as error:
        if error.field != REFERENCES:
            raise
        allowed = f"one picture to draw over ({error.message})"
        raise InvalidRequest("image", f"{len(images)} pictures", allowed) from error


def _repainted(mask: bytes) -> bytes:
    """Return OpenAI's mask, transparent where to draw, as ours, white there."""
    from sdforge.postprocess.edit_mask import transparent_parts

    return transparent_parts(mask)


def _finished(job: Job) -> Job:
    """Return a job that is done; raise what ended another one."""
    if job.status in (JobStatus.DONE, JobStatus.CANCELLED) and job.images:
        return job
    error = SdforgeError(job.error.message if job.error else f"the job was {job.status.value}")
    error.status = job.error.status if job.error else 503
    raise error


def _files(context: ApiContext, job: Job) -> list[bytes]:
    return [context.engine.image_data(job.id, image.index)[0] for image in job.images]


def _encoded(data: bytes) -> str:
    return pybase64.b64encode_as_string(data)


def _about(body: ImageParameters, job: Job) -> dict[str, Any]:
    """Return what answers and events say beside the picture; tokens are not what we count."""
    return {
        "background": "opaque",
        "output_format": body.output_format,
        "quality": body.quality,
        "size": f"{job.request.width}x{job.request.height}",
        "usage": {
            "input_tokens": 0, "output_tokens": 0, "total_tokens": 0,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        },
    }  # fmt: skip


async def _stream(
    context: ApiContext, body: ImageParameters, job: Job, event: str
) -> AsyncIterator[bytes]:
    """Yield partial pictures and then whole ones as server-sent events."""
    sent = 0
    common = {"created_at": int(job.created_at), **_about(body, job)}
    async for said in job_events(context.engine, job.id, 0, HEARTBEAT_SECONDS):
        if said is None:
            yield b": nothing new\n\n"
        elif isinstance(said.event, PreviewReady) and sent < body.partial_images:
            partial = {k: value for k, value in common.items() if k != "usage"}
            partial |= {"b64_json": _encoded(said.event.image), "partial_image_index": sent}
            sent += 1
            yield _event(f"{event}.partial_image", partial)
    try:
        done = _finished(context.engine.get(job.id))
        files = await asyncio.to_thread(_files, context, done)
    except SdforgeError as error:
        text = {"message": error.message, "type": "server_error", "param": None, "code": None}
        yield _event("error", {"error": text})
        return
    for file in files:
        yield _event(f"{event}.completed", common | {"b64_json": _encoded(file)})


def _event(name: str, values: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **values})}\n\n".encode()
