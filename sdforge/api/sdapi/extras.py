"""POST /sdapi/v1/extra-single-image and extra-batch-images, and the same as a job: /api/v1/extras.

They go through the queue like all jobs: progress, interrupt and skip act on them too.
"""

from __future__ import annotations

import asyncio
import html
import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from sdforge.api.context import ApiContext
from sdforge.api.errors import error_response
from sdforge.api.jobs import describe_job
from sdforge.api.links import fetched, is_link
from sdforge.api.schemas import (
    ErrorBody,
    LenientBool,
    LenientFloat,
    LenientInt,
    LenientModel,
    LenientStr,
)
from sdforge.api.sdapi.generation import UnsavedPictures
from sdforge.api.waiting import wait_finished
from sdforge.core.extras import Extras
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest
from sdforge.engine import Job, JobStatus

_RESPONSES: dict[int | str, dict[str, Any]] = {
    422: {"model": ErrorBody, "description": "A field cannot be used; it is named."},
    429: {"model": ErrorBody, "description": "Too many jobs wait."},
    507: {"model": ErrorBody, "description": "Not enough memory."},
}


class ExtrasRequest(LenientModel):
    """What both routes take."""

    resize_mode: LenientInt = Field(default=0, description="0 by a factor, 1 to a size.")
    show_extras_results: LenientBool = Field(default=True, description="No effect, as in A1111.")
    gfpgan_visibility: LenientFloat = Field(
        default=0, description="Share of faces restored by GFPGAN, 0 to 1."
    )
    codeformer_visibility: LenientFloat = Field(
        default=0, description="Share of faces restored by CodeFormer, 0 to 1."
    )
    codeformer_weight: LenientFloat = Field(
        default=0, ge=0, le=1, description="0: CodeFormer restores most; 1: least."
    )
    upscaling_resize: LenientFloat = Field(default=2, description="The factor.")
    max_side_length: LenientInt = Field(
        default=0, description="Longest side by a factor; 0: no limit."
    )
    upscaling_resize_w: LenientInt = Field(default=512, description="Width to reach.")
    upscaling_resize_h: LenientInt = Field(default=512, description="Height to reach.")
    upscaling_crop: LenientBool = Field(
        default=True, description="Whether to cut off what is too much."
    )
    upscaler_1: LenientStr = Field(default="None", description="One of /sdapi/v1/upscalers.")
    upscaler_2: LenientStr = Field(default="None", description="One that is mixed in.")
    extras_upscaler_2_visibility: LenientFloat = Field(default=0, description="Its share, 0 to 1.")
    upscale_first: LenientBool = Field(default=False, description="No effect, as in A1111.")


class ExtrasSingleRequest(ExtrasRequest):
    """One picture to process."""

    image: LenientStr = Field(default="", description="Base64, with or without a data: prefix.")


class FileData(LenientModel):
    """One picture of a batch."""

    data: LenientStr = Field(description="Base64, with or without a data: prefix.")
    name: LenientStr = Field(default="", description="Of its file.")


class ExtrasBatchRequest(ExtrasRequest):
    """Pictures to process."""

    imageList: list[FileData] = Field(description="The pictures.")


class StoredPicture(LenientModel):
    """A picture that /api/v1/inputs has stored."""

    sha256: LenientStr = Field(description="Its name there.")
    width: LenientInt = Field(ge=1, description="In pixels.")
    height: LenientInt = Field(ge=1, description="In pixels.")
    name: LenientStr = Field(default="", description="Of its file; the result is called so.")


class ExtrasJobRequest(ExtrasRequest):
    """Stored pictures to process in a job."""

    images: list[StoredPicture] = Field(default=[], description="As /api/v1/inputs answered.")
    input_dir: LenientStr = Field(default="", description="In place of images: all in a folder.")
    output_dir: LenientStr = Field(default="", description="Where results go; empty: outputs.")
    save_images: LenientBool = Field(default=True, description="Whether results are saved to disk.")


class SingleResponse(BaseModel):
    """One processed picture."""

    html_info: str = Field(description="What was done, as a paragraph of HTML.")
    image: str = Field(description="Base64, without a data: prefix.")


class BatchResponse(BaseModel):
    """All processed pictures."""

    html_info: str = Field(description="What was done to the last one.")
    images: list[str] = Field(description="Base64, without a data: prefix.")


def router(context: ApiContext) -> APIRouter:
    """Return A1111's routes."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["extras"])

    @routes.post(
        "/extra-single-image",
        responses={200: {"model": SingleResponse}, **_RESPONSES},
        response_class=Response,
    )
    async def extra_single_image(payload: ExtrasSingleRequest) -> Response:
        """Enlarge a picture; answers when it is done. Nothing is saved to disk.

        The header X-Job-Id names the job; it can be interrupted like any other.
        """
        job, pictures = await _run(context, payload, [FileData(data=payload.image)], "image")
        return _answer(job, pictures, lambda all_of_them: {"image": all_of_them[0]})

    @routes.post(
        "/extra-batch-images",
        responses={200: {"model": BatchResponse}, **_RESPONSES},
        response_class=Response,
    )
    async def extra_batch_images(payload: ExtrasBatchRequest) -> Response:
        """Enlarge pictures; answers when all are done. Nothing is saved to disk."""
        job, pictures = await _run(context, payload, payload.imageList, "imageList")
        return _answer(job, pictures, lambda all_of_them: {"images": all_of_them})

    return routes


def job_router(context: ApiContext) -> APIRouter:
    """Return our own route."""
    engine = context.engine
    routes = APIRouter(prefix="/api/v1", tags=["jobs"])

    @routes.post("/extras", status_code=202, responses=_RESPONSES)
    def extras(request: Request, payload: ExtrasJobRequest) -> dict[str, Any]:
        """Queue a job that processes stored pictures, and answer at once with the job."""
        extras = extras_of(payload)
        extras.check()
        if payload.output_dir.strip():
            folder = engine.folders.folder(payload.output_dir, "output_dir")
            extras = replace(extras, folder=str(folder))
        if payload.input_dir.strip():
            images, names = _from_folder(context, payload.input_dir)
        else:
            images = [InputImage(one.sha256, one.width, one.height) for one in payload.images]
            names = _stems([one.name for one in payload.images])
            for image in images:
                engine.inputs.read(image)
        asked = GenerationRequest(init_images=tuple(images), extras=replace(extras, names=names))
        job = engine.submit(asked, save_images=payload.save_images)
        root = request.scope.get("root_path", "")
        return describe_job(job, engine.queue_position(job.id), root)

    return routes


def extras_of(payload: ExtrasRequest, names: Sequence[str] = ()) -> Extras:
    """Return what a payload asks for; `names` are those of the pictures' files."""
    return Extras(
        resize_mode=payload.resize_mode,
        factor=payload.upscaling_resize,
        max_side=payload.max_side_length,
        width=payload.upscaling_resize_w,
        height=payload.upscaling_resize_h,
        crop=payload.upscaling_crop,
        upscaler=payload.upscaler_1,
        second_upscaler=payload.upscaler_2,
        second_visibility=payload.extras_upscaler_2_visibility,
        gfpgan_visibility=payload.gfpgan_visibility,
        codeformer_visibility=payload.codeformer_visibility,
        codeformer_weight=payload.codeformer_weight,
        names=_stems(names),
    )


def _stems(names: Sequence[str]) -> tuple[str, ...]:
    stems = tuple(PurePath(name.replace("\\", "/")).stem for name in names)
    return stems if any(stems) else ()


def _from_folder(context: ApiContext, text: str) -> tuple[list[InputImage], tuple[str, ...]]:
    """Store the pictures of a folder and return them with their names.

    Raises:
        InvalidRequest: the folder may not be read, or one of its pictures cannot be.
    """
    engine = context.engine
    most = engine.settings.current.max_images_per_job
    paths = engine.folders.pictures(text, "input_dir", most)
    images = [engine.add_input(path.read_bytes(), f"input_dir: {path.name}") for path in paths]
    return images, tuple(path.stem for path in paths)


async def _run(
    context: ApiContext, payload: ExtrasRequest, files: Sequence[FileData], field: str
) -> tuple[Job, list[bytes]]:
    """Run a job for pictures and return it with its results."""
    engine = context.engine

    def submit() -> Job:
        # Before anything is stored.
        extras = extras_of(payload, [one.name for one in files])
        extras.check()
        images = tuple(engine.add_input(_picture(context, one.data, field), field) for one in files)
        return engine.submit(
            GenerationRequest(init_images=images, extras=extras), save_images=False
        )

    job = await asyncio.to_thread(submit)
    results = UnsavedPictures(engine)
    job = await wait_finished(engine, job.id, results.collect)
    return job, [results.read(job, image.index) for image in job.images]


def _picture(context: ApiContext, text: str, field: str) -> bytes:
    from sdforge.postprocess.decoding import decode_base64

    if is_link(text):
        return fetched(text, field, context.engine.settings.current)
    return decode_base64(text, field)


def _answer(job: Job, pictures: Sequence[bytes], shape: Any) -> Response:
    if not job.is_finished:
        text = "the server is stopping; the job is kept and runs when it starts again"
        return error_response(503, "ServerStopping", text)
    if job.status not in (JobStatus.DONE, JobStatus.CANCELLED) or not pictures:
        error = job.error
        if error is None:
            return error_response(409, "Cancelled", "the job was interrupted before any picture")
        return error_response(error.status, error.kind, error.message)
    encoded = [text.decode("ascii") for text in pictures]
    body: Mapping[str, Any] = {"html_info": html_info(job), **shape(encoded)}
    headers = {"X-Job-Id": quote(job.id, safe=string.punctuation + " ")}
    return JSONResponse(body, headers=headers)


def html_info(job: Job) -> str:
    """Return what was done to a job's last picture, as A1111's paragraph."""
    text = job.images[-1].processing if job.images else ""
    return f"<p>{html.escape(text)}</p>"
