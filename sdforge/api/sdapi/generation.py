"""POST /sdapi/v1/txt2img and img2img: submit a job, wait for it (no thread is held), answer."""

from __future__ import annotations

import asyncio
import string
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import quote

import pybase64
from fastapi import APIRouter, Header, Response

from sdforge.api.context import ApiContext
from sdforge.api.control_maps import detected_maps
from sdforge.api.errors import error_response
from sdforge.api.generation_response import (
    GenerationAnswer,
    echoed_parameters,
    finished_info,
    generation_info,
    shown_grid,
)
from sdforge.api.schemas import (
    ErrorBody,
    GenerationResponse,
    Img2ImgRequest,
    LenientModel,
    Txt2ImgRequest,
)
from sdforge.api.sdapi.sweep_scripts import draw_sweep, sweep_script_of
from sdforge.api.submission import submitted, terms_of
from sdforge.api.translate import filled_in
from sdforge.api.translate_control import TITLES as CONTROL_TITLES
from sdforge.api.translate_references import TITLES as REFERENCE_TITLES
from sdforge.api.waiting import wait_finished
from sdforge.core.errors import NotFound
from sdforge.engine import Engine, Job, JobImage, JobStatus

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": GenerationResponse},
    409: {"model": ErrorBody, "description": "force_task_id is taken."},
    422: {"model": ErrorBody, "description": "A field cannot be used; it is named."},
    429: {"model": ErrorBody, "description": "Too many jobs wait."},
    507: {"model": ErrorBody, "description": "Not enough memory, or a disk is full."},
}
Key = Annotated[
    str | None, Header(description="The same key again within a day answers with the same job.")
]
# Where pictures come in; megabytes each.
_PICTURE_KEYS = ("init_images", "mask", "latent_mask", "firstpass_image", "reference_images")


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["generation"])

    @routes.post("/txt2img", responses=_RESPONSES, response_class=Response)
    async def txt2img(payload: Txt2ImgRequest, idempotency_key: Key = None) -> Response:
        """Draw pictures from a prompt; answers when they are done.

        The header X-Job-Id names the job. An interrupted job answers 200 with what there was.
        A client that hangs up does not stop its job.
        """
        return await _generate(context, payload, "txt2img", idempotency_key)

    @routes.post("/img2img", responses=_RESPONSES, response_class=Response)
    async def img2img(payload: Img2ImgRequest, idempotency_key: Key = None) -> Response:
        """Draw over pictures, or over the masked part of them; answers when they are done.

        Pictures come as base64, with or without a data: prefix. The rest is as with txt2img.
        """
        return await _generate(context, payload, "img2img", idempotency_key)

    return routes


async def _generate(
    context: ApiContext, payload: LenientModel, kind: str, key: str | None
) -> Response:
    engine = context.engine
    values = filled_in(payload)
    if (script := sweep_script_of(values)) is not None:
        return await draw_sweep(context, values, kind, script)
    terms = terms_of(payload, kind, key=key)
    job = await asyncio.to_thread(submitted, context, values, kind, terms)
    _forget_pictures(values)
    draft = Draft(engine, values, job)
    job = await wait_finished(engine, job.id, draft.follow)
    if draft.pictures.has_all(job):
        response = _answer(draft, job)
    else:
        response = await asyncio.to_thread(_answer, draft, job)
    response.headers["X-Job-Id"] = quote(job.id, safe=string.punctuation + " ")
    return response


def _forget_pictures(values: dict[str, Any]) -> None:
    """Drop what the client sent, unless it wants it back: the job may wait for long."""
    if not values.get("include_init_images"):
        values.update({key: None for key in _PICTURE_KEYS if key in values})
        scripts = values.get("alwayson_scripts") or {}
        values["alwayson_scripts"] = {
            title: sent
            for title, sent in scripts.items()
            if title.strip().casefold() not in CONTROL_TITLES | REFERENCE_TITLES
        }


class UnsavedPictures:
    """Pictures that exist only in memory, taken as they are made, as base64.

    The engine keeps a bounded number of them, and a large job may make more than that. They are
    encoded while the next ones are drawn and the job is recorded, so the answer waits for neither.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._texts: dict[int, bytes] = {}
        self._seen = 0

    def collect(self, job: Job) -> None:
        """Take the pictures that are new; only reads memory."""
        for image in job.images[self._seen :]:
            if image.path is None:
                # One that is gone already is missed, and reported, when the job ends.
                with suppress(NotFound):
                    self._texts[image.index] = self._encoded(job, image.index)
        self._seen = len(job.images)

    def has_all(self, job: Job) -> bool:
        """Whether a job's answer reads no file and encodes nothing, so needs no thread."""
        is_plain = job.grid is None and not job.request.control
        return is_plain and len(self._texts) == len(job.images)

    def read(self, job: Job, index: int) -> bytes:
        """Return a picture's file in base64, from here or from the engine; raises `NotFound`."""
        text = self._texts.get(index)
        return self._encoded(job, index) if text is None else text

    def _encoded(self, job: Job, index: int) -> bytes:
        return pybase64.b64encode(self._engine.image_data(job.id, index)[0])


class Draft:
    """What of an answer can be made while its pictures are: the end of a job waits for none."""

    def __init__(self, engine: Engine, values: Mapping[str, Any], job: Job) -> None:
        """Echo the request; there is nothing else yet."""
        self.engine = engine
        self.values = values
        self.echo = echoed_parameters(values, job)
        self.pictures = UnsavedPictures(engine)
        self._drawn: tuple[JobImage, ...] = ()
        self._info: dict[str, Any] = {}

    def follow(self, job: Job) -> None:
        """Take the pictures that are new; with the last one the rest can be said."""
        if not self.values["send_images"]:
            return
        self.pictures.collect(job)
        is_last = len(job.images) == job.request.image_count and self.pictures.has_all(job)
        if is_last and self._drawn != job.images:
            self._drawn = job.images
            self._info = generation_info(self.engine, job, self.values)

    def info(self, job: Job) -> dict[str, Any]:
        """Return A1111's `info` of a job that has ended."""
        # A script may draw more pictures than a request asks for.
        if self._info and self._drawn == job.images and job.grid is None:
            return finished_info(self._info, job)
        return generation_info(self.engine, job, self.values)


def _answer(draft: Draft, job: Job) -> Response:
    """Return the answer to a finished job; reads the files of pictures that the draft lacks."""
    if not job.is_finished:
        text = "the server is stopping; the job is kept and runs when it starts again"
        return error_response(503, "ServerStopping", text)
    if job.status not in (JobStatus.DONE, JobStatus.CANCELLED):
        error = job.error
        if error is None:
            return error_response(500, "InternalError", f"the job ended as {job.status.value}")
        return error_response(error.status, error.kind, error.message)
    grid = shown_grid(job)
    shown = job.images if grid is None else (grid, *job.images)
    pictures: list[bytes] = []
    if draft.values["send_images"]:
        pictures = [draft.pictures.read(job, image.index) for image in shown]
    if pictures:
        maps = detected_maps(draft.engine, job)
        pictures += [pybase64.b64encode(picture) for picture in maps]
    return GenerationAnswer(pictures, draft.echo, draft.info(job))
