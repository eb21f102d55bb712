"""Details of a request checked before it is queued: detectors, samplers, checkpoints, sizes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from sdforge.core.detail import Detail
from sdforge.core.errors import InvalidRequest, ModelError, UnknownName
from sdforge.core.extension import Extension, complete_values
from sdforge.core.registry import Registry
from sdforge.core.request import GenerationRequest, Limits
from sdforge.engine.prediction import DetailsOf

if TYPE_CHECKING:
    from sdforge.models.library import Library


def check_details(
    details: Sequence[Detail], request: GenerationRequest, limits: Limits, library: Library
) -> None:
    """Raise unless all details of a resolved request can be drawn.

    Raises:
        ModelError: a detector's file is missing or cannot be used, or a checkpoint cannot.
        UnknownName: no such sampler, schedule, checkpoint or VAE.
        InvalidRequest: one would be drawn larger than allowed.
    """
    for detail in details:
        library.detectors.chosen(detail.detector, "ad_model")
        _check_names(detail, request, library)
        width, height = detail.drawn_size(request, request.final_size)
        if width * height > limits.pixels_per_image:
            allowed = f"at most {limits.pixels_per_image} pixels a picture"
            raise InvalidRequest("ad_inpaint_width", f"{width}x{height}", allowed)


def _check_names(detail: Detail, request: GenerationRequest, library: Library) -> None:
    from sdforge.pipeline.detailing import resolved_sampler

    field = "ad_sampler"
    try:
        resolved_sampler(detail, request)
        field = "ad_checkpoint"
        info = library.find(detail.checkpoint or request.checkpoint)
        field = "ad_vae"
        library.find_vae(detail.vae or "None", info)
    except UnknownName as error:
        if error.kind == "schedule":
            field = "ad_scheduler"
        raise UnknownName(error.kind, error.name, error.known, field) from error
    if detail.checkpoint and info.error is not None:
        raise ModelError(info.error)


def details_by(registry: Registry[Extension]) -> DetailsOf:
    """Return what tells the details of resolved requests, by the extensions that there are."""

    def of(request: GenerationRequest) -> tuple[Detail, ...]:
        found: list[Detail] = []
        for name, values in request.extensions.items():
            # A job of another version may have values that nobody knows any more.
            with suppress(InvalidRequest):
                if name in registry:
                    extension = registry.get(name)
                    found.extend(extension.details(complete_values(extension, values)))
        return tuple(found)

    return of
