"""The answer to txt2img and img2img: pictures, the echoed request, and A1111's `info`.

The body is made of bytes around the base64 text: running tens of megabytes through a JSON encoder
would cost more than drawing a small picture does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from sdforge.core.errors import SdforgeError
from sdforge.core.result import GenerationInfo, ModelIdentity
from sdforge.core.script import runs_script
from sdforge.engine import Engine, Job, JobImage
from sdforge.output.infotext import parse_infotext, write_infotext

# Keys of the infotext that `info` has elsewhere; A1111's extra_generation_params holds the others.
_NOT_EXTRA = frozenset(
    ("Steps", "Sampler", "CFG scale", "Seed", "Size", "Model hash", "Model", "VAE hash", "VAE",
     "Variation seed", "Variation seed strength", "Seed resize from", "Clip skip", "ENSD", "RNG",
     "Version")
)  # fmt: skip


class GenerationAnswer(Response):
    """The JSON of an answer, sent in its pieces: to join them would copy megabytes of pictures."""

    def __init__(
        self, pictures: Sequence[bytes], parameters: bytes, info: Mapping[str, Any]
    ) -> None:
        """Take pictures in base64, the echoed request as JSON, and A1111's `info`."""
        super().__init__(media_type="application/json")
        self._pieces = [b'{"images":[']
        for number, picture in enumerate(pictures):
            self._pieces += [b',"' if number else b'"', picture, b'"']
        said = _json(_json(info).decode())
        self._pieces.append(b'],"parameters":' + parameters + b',"info":' + said + b"}")
        self.headers["Content-Length"] = str(sum(map(len, self._pieces)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces one by one, as the ASGI specification lets a body come."""
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        last = len(self._pieces) - 1
        for number, piece in enumerate(self._pieces):
            await send({"type": "http.response.body", "body": piece, "more_body": number < last})


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def echoed_parameters(values: Mapping[str, Any], job: Job) -> bytes:
    """Return the request as JSON; sizes and scales that were left open as the job has them."""
    parameters = dict(values)
    parameters.pop("include_init_images", None)
    for key in ("width", "height", "cfg_scale", "distilled_cfg_scale", "denoising_strength"):
        if parameters[key] is None:
            parameters[key] = getattr(job.request, key)
    return _json(parameters)


def generation_info(engine: Engine, job: Job, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return A1111's `info` object of a job, all its keys present."""
    request = job.request
    texts = _texts_of_pictures(engine, job)
    model = _model_identity(engine, request.checkpoint)
    grid = shown_grid(job)
    shown = job.images if grid is None else (grid, *job.images)
    infotexts = [image.infotext for image in shown] or [_planned_infotext(engine, job, model)]
    said = parse_infotext(infotexts[0]).fields
    return {
        "prompt": request.image_prompt(0),
        **texts,
        "negative_prompt": request.image_negative_prompt(0),
        "seed": request.seed,
        "subseed": request.subseed,
        "subseed_strength": request.subseed_strength,
        "width": request.width,
        "height": request.height,
        "sampler_name": request.sampler,
        "cfg_scale": request.cfg_scale,
        "steps": request.steps,
        "batch_size": request.batch_size,
        "restore_faces": bool(request.restore_faces),
        "face_restoration_model": (
            job.settings.face_restoration_model if request.restore_faces else None
        ),
        "sd_model_name": model.name or None,
        "sd_model_hash": model.short_hash,
        "sd_vae_name": said.get("VAE"),
        "sd_vae_hash": said.get("VAE hash"),
        "seed_resize_from_w": request.seed_resize_from_w,
        "seed_resize_from_h": request.seed_resize_from_h,
        "denoising_strength": request.denoising_strength,
        "extra_generation_params": {k: v for k, v in said.items() if k not in _NOT_EXTRA},
        "index_of_first_image": int(grid is not None),
        "infotexts": infotexts,
        "styles": list(request.styles),
        "job_timestamp": job_timestamp(job),
        "clip_skip": job.settings.CLIP_stop_at_last_layers,
        "is_using_inpainting_conditioning": "Conditional mask weight" in said,
        "version": engine.version,
        **_said_at_the_end(job),
    }


def finished_info(drafted: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """Return what `generation_info` says of a job that has ended since, with no picture more."""
    return {**drafted, **_said_at_the_end(job)}


def _said_at_the_end(job: Job) -> dict[str, Any]:
    """Return what may change after the last picture."""
    return {
        # Ours: what went otherwise than asked, a ControlNet unit that was left out for one.
        "notices": list(job.progress.notices),
        # Seconds by stage, waiting and saving included.
        "timings": {stage: round(seconds, 4) for stage, seconds in job.timings.items()},
    }


def _texts_of_pictures(engine: Engine, job: Job) -> dict[str, list[Any]]:
    """Return A1111's lists of what each picture was drawn from.

    A request says it of its own pictures, planned ones included; those of a script say it
    themselves.
    """
    request, count = job.request, range(job.request.image_count)
    if not runs_script(request, engine.extensions):
        return {
            "all_prompts": [request.image_prompt(index) for index in count],
            "all_negative_prompts": [request.image_negative_prompt(index) for index in count],
            "all_seeds": [request.image_seed(index) for index in count],
            "all_subseeds": [request.image_subseed(index) for index in count],
        }
    said = [parse_infotext(image.infotext) for image in job.images]
    return {
        "all_prompts": [text.prompt for text in said],
        "all_negative_prompts": [text.negative_prompt for text in said],
        "all_seeds": [image.seed for image in job.images],
        "all_subseeds": [
            _whole_number(text.fields.get("Variation seed"), request.subseed) for text in said
        ],
    }


def _whole_number(text: str | None, default: int) -> int:
    return int(text) if text and text.isdecimal() else default


def job_timestamp(job: Job) -> str:
    """Return when a job started in A1111's form, local time, or "0" before that."""
    if job.started_at is None:
        return "0"
    return time.strftime("%Y%m%d%H%M%S", time.localtime(job.started_at))


def shown_grid(job: Job) -> JobImage | None:
    """Return the contact sheet that comes before the pictures, if one does."""
    return job.grid if job.settings.return_grid else None


def _planned_infotext(engine: Engine, job: Job, model: ModelIdentity) -> str:
    """Return what a job's first picture would have said; it was stopped before it had one."""
    request = job.request
    info = GenerationInfo(
        request=request,
        index=0,
        seed=request.image_seed(0),
        subseed=request.image_subseed(0),
        prompt=request.image_prompt(0),
        negative_prompt=request.image_negative_prompt(0),
        model=model,
        clip_skip=job.settings.CLIP_stop_at_last_layers,
        version=engine.version,
    )
    return write_infotext(info, job.settings)


def _model_identity(engine: Engine, title: str) -> ModelIdentity:
    """Return what is known of a checkpoint; its file may be gone by now."""
    try:
        info: Any = engine.library.find(title)
    except SdforgeError:
        return ModelIdentity(title=title, name=title)
    return ModelIdentity(title=info.title, name=info.name, sha256=info.sha256)
