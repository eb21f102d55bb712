"""A1111's payloads → jobs, for the routes that wait for the pictures and those that do not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sdforge.api.context import ApiContext
from sdforge.api.links import without_links
from sdforge.api.schemas import LenientModel
from sdforge.api.sdapi.options import change_options
from sdforge.api.translate import generation_request
from sdforge.core.errors import SdforgeError
from sdforge.engine import Job, Terms


def terms_of(
    payload: LenientModel, kind: str, *, priority: int = 0, key: str | None = None,
    webhook: str | None = None,
) -> Terms:  # fmt: skip
    """Return what is agreed with the client beside the payload."""
    digest = ""
    if key is not None:
        text = json.dumps([kind, payload.model_dump()], sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Terms(priority=priority, key=key, digest=digest, webhook=webhook)


def submitted(context: ApiContext, values: Mapping[str, Any], kind: str, terms: Terms) -> Job:
    """Queue a payload's values. Decodes pictures, so not for the event loop.

    Raises:
        SdforgeError: as `generation_request` and `Engine.submit` do.
    """
    engine = context.engine
    fetched = without_links(values, engine.settings.current)
    request = generation_request(fetched, engine.extensions, kind=kind, add_input=engine.add_input)
    job = engine.submit(
        request,
        job_id=values["force_task_id"] or None,
        save_images=bool(values["save_images"]),
        terms=terms,
    )
    if values["override_settings"] and not values["override_settings_restore_afterwards"]:
        _keep_overrides(context, job)
    return job


def _keep_overrides(context: ApiContext, job: Job) -> None:
    """Make a job's overrides the settings; when they can't be, the job is not wanted either."""
    overrides = dict(job.request.overrides)
    if "sd_model_checkpoint" in overrides:
        # A job may name its checkpoint by a part of its title, a setting may not.
        overrides["sd_model_checkpoint"] = job.request.checkpoint
    try:
        change_options(context, overrides)
    except SdforgeError:
        context.engine.cancel(job.id)
        raise
