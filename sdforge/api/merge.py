"""POST /api/v1/merge: a checkpoint made of others, as a job. The fields are A1111's.

Clients name checkpoints and VAEs as everywhere, and the new file by a name, never by a path: it
lies in the checkpoint folder.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from sdforge.api.context import ApiContext
from sdforge.api.jobs import describe_job
from sdforge.api.schemas import (
    ErrorBody,
    LenientBool,
    LenientFloat,
    LenientInt,
    LenientModel,
    LenientStr,
)
from sdforge.core.errors import InvalidRequest
from sdforge.core.merge import WEIGHTED_SUM, Merge
from sdforge.core.request import GenerationRequest

_RESPONSES: dict[int | str, dict[str, Any]] = {
    422: {"model": ErrorBody, "description": "A field cannot be used, or they do not go together."},
    429: {"model": ErrorBody, "description": "Too many jobs wait."},
    507: {"model": ErrorBody, "description": "The disk has no room."},
}
# A1111's "Copy config from".
_CONFIG_SOURCES = {"a, b or c": 0, "b": 1, "c": 2, "don't": 3}


class MergeRequest(LenientModel):
    """What to merge."""

    primary_model_name: LenientStr = Field(description="Checkpoint A, by any of its names.")
    secondary_model_name: LenientStr = Field(default="", description="Checkpoint B.")
    tertiary_model_name: LenientStr = Field(default="", description="Checkpoint C.")
    interp_method: LenientStr = Field(
        default=WEIGHTED_SUM, description="No interpolation, Weighted sum or Add difference."
    )
    multiplier: LenientFloat = Field(default=0.3, description="M, 0 to 1; 0 gives A.")
    custom_name: LenientStr = Field(default="", description="Of the new file; empty: made up.")
    save_as_half: LenientBool = Field(default=False, description="A1111's way to say fp16.")
    precision: LenientStr = Field(
        default="", description="fp32, fp16, bf16 or fp8; empty: as in the files."
    )
    checkpoint_format: LenientStr = Field(default="safetensors", description="safetensors.")
    config_source: LenientInt | LenientStr = Field(
        default=0, description="Whose .yaml is copied: 0 the first that has one, 1 B, 2 C, 3 none."
    )
    bake_in_vae: LenientStr = Field(default="None", description="A VAE to put in, or None.")
    discard_weights: LenientStr = Field(
        default="", description="Regular expression; tensors whose names it finds are left out."
    )
    save_metadata: LenientBool = Field(default=True, description="Whether the file has any.")
    add_merge_recipe: LenientBool = Field(
        default=True, description="Whether they say what went in."
    )
    copy_metadata_fields: LenientBool = Field(
        default=True, description="Whether A's, B's, C's go in."
    )
    metadata_json: LenientStr | dict[str, Any] = Field(
        default="{}", description="Further metadata: a JSON object, or the text of one."
    )
    overwrite: LenientBool = Field(
        default=False, description="Whether a file of that name may be replaced."
    )


def router(context: ApiContext) -> APIRouter:
    """Return the route."""
    engine = context.engine
    routes = APIRouter(prefix="/api/v1", tags=["models"])

    @routes.post("/merge", status_code=202, responses=_RESPONSES)
    def merge(request: Request, payload: MergeRequest) -> dict[str, Any]:
        """Queue a merge and answer at once with the job; `file` is the new checkpoint's name."""
        job = engine.submit(GenerationRequest(merge=merge_of(payload)))
        made = job.request.merge
        root = request.scope.get("root_path", "")
        described = describe_job(job, engine.queue_position(job.id), root)
        return described | {"file": made.name if made else ""}

    return routes


def merge_of(payload: MergeRequest) -> Merge:
    """Return what a payload asks for; raises `InvalidRequest`."""
    if payload.checkpoint_format.strip().casefold() != "safetensors":
        allowed = "safetensors (.ckpt files can run code when others open them)"
        raise InvalidRequest("checkpoint_format", payload.checkpoint_format, allowed)
    source = payload.config_source
    if isinstance(source, str):
        source = _CONFIG_SOURCES.get(source.strip().casefold(), -1)
    return Merge(
        primary=payload.primary_model_name,
        secondary=payload.secondary_model_name,
        tertiary=payload.tertiary_model_name,
        method=payload.interp_method,
        multiplier=payload.multiplier,
        precision=payload.precision or ("fp16" if payload.save_as_half else ""),
        vae=payload.bake_in_vae,
        discard=payload.discard_weights,
        name=payload.custom_name,
        overwrite=payload.overwrite,
        config_from=source,
        save_metadata=payload.save_metadata,
        add_recipe=payload.add_merge_recipe,
        copy_metadata=payload.copy_metadata_fields,
        metadata=_metadata(payload.metadata_json),
    )


def _metadata(given: str | dict[str, Any]) -> dict[str, str]:
    """Return metadata as safetensors files hold them: texts; what is none becomes its JSON."""
    try:
        found = json.loads(given or "{}") if isinstance(given, str) else given
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("metadata_json", given, f"a JSON object ({error})") from error
    if not isinstance(found, dict):
        raise InvalidRequest("metadata_json", given, "a JSON object")
    return {
        str(key): value if isinstance(value, str) else json.dumps(value)
        for key, value in found.items()
    }
