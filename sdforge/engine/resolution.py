"""Requests as they come → requests as they are queued: checked, nothing left open.

Names become registered ones, −1 a seed, prompts what each picture is drawn from. `engine.py` is the
only one that asks; limits and the meaning of single fields are `core.request`'s.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from sdforge.core.errors import InvalidRequest, ModelError, UnknownName
from sdforge.core.extension import Active, Extension, active_extensions
from sdforge.core.extras import TO_SIZE, Extras
from sdforge.core.fields import FIELD
from sdforge.core.registry import Registry
from sdforge.core.request import (
    DEFAULT_SIZE,
    GenerationRequest,
    Limits,
    Recommended,
    resolve,
    validate,
)
from sdforge.core.script import check_script
from sdforge.core.settings import OPTIONS, Settings
from sdforge.engine.details import check_details
from sdforge.pipeline.merge import resolved_merge
from sdforge.postprocess.upscalers import (
    UpscalerModels,
    picture_upscaler_name,
    picture_upscaler_names,
    upscaler_name,
)
from sdforge.prompt.pictures import NEGATIVE_SEED, picture_prompts
from sdforge.prompt.styles import StyleLibrary
from sdforge.prompt.tokens import TokenizerLike
from sdforge.prompt.wildcards import WildcardFolder
from sdforge.sampling.names import resolve_sampler

if TYPE_CHECKING:
    from sdforge.models.library import Library

log = logging.getLogger(__name__)

_FIRST_PASS_MULTIPLE = 64


class Checkpoint(Protocol):
    """What the engine needs to know of a checkpoint."""

    @property
    def title(self) -> str:
        """The name that the model provider loads it by."""

    @property
    def recommended(self) -> Recommended:
        """The size and scale that it was made for."""

    @property
    def error(self) -> str | None:
        """Why it cannot run, None when it can."""

    @property
    def refers(self) -> int:
        """How many pictures it may refer to, that of img2img among them."""


class FaceModels(Protocol):
    """The networks of faces that there are; `models.faces.library` has the real ones."""

    def chosen(self, name: str, field: str) -> Any:
        """Return the restorer of a name; raises `ModelError` where a file is missing."""


class CheckpointLibrary(Protocol):
    """Where checkpoints are found; `models.library.Library` is the real one."""

    def find(self, name: str) -> Checkpoint:
        """Return the checkpoint of a title, file name, hash…; of "" the first there is."""

    def find_modules(self, names: Sequence[str]) -> tuple[Path, ...]:
        """Return the files of a list of VAE and text encoders; raises `UnknownName`."""

    def modules(self) -> Sequence[Any]:
        """Return the files that bring a VAE or text encoders."""

    def checkpoints(self) -> list[Any]:
        """Return all checkpoints."""

    def refresh(self) -> None:
        """Look again at what is on disk."""

    def tokenizer(self) -> TokenizerLike:
        """Return what counts the tokens of prompts."""

    @property
    def upscalers(self) -> UpscalerModels:
        """The upscaler files that there are."""

    @property
    def faces(self) -> FaceModels:
        """The networks of faces that there are."""

    @property
    def controlnets(self) -> Any:
        """The ControlNet files that there are; `models.adapters.controlnet_library` has them."""


class Resolver:
    """Resolves requests against what a server has."""

    def __init__(
        self,
        library: CheckpointLibrary,
        extensions: Registry[Extension],
        styles: StyleLibrary,
        wildcards: WildcardFolder,
    ) -> None:
        """Take what names are looked up in."""
        self._library = library
        self._extensions = extensions
        self._styles = styles
        self._wildcards = wildcards

    def resolved(
        self, request: GenerationRequest, settings: Settings, current: Settings
    ) -> GenerationRequest:
        """Return the request with nothing left open.

        Args:
            request: as a client made it.
            settings: the job's, overrides included.
            current: the server's, which hold the limits.

        Raises:
            InvalidRequest: a field cannot be used.
            UnknownName: no such sampler, schedule, upscaler, extension or checkpoint.
            ModelError: a checkpoint cannot serve.
        """
        limits = Limits(
            pixels_per_image=current.max_pixels_per_image,
            images_per_job=current.max_images_per_job,
        )
        if request.extras is not None:
            for name, _ in request.extras.restorers:
                self._library.faces.chosen(name, f"{name.casefold()}_visibility")
            return resolved_extras(request, request.extras, limits, self._library.upscalers)
        if request.merge is not None:
            merge = resolved_merge(request.merge, cast("Library", self._library))
            return replace(request, merge=merge, checkpoint="", seed=0, subseed=0)
        validate(request, limits)
        request = self._with_faces(request, settings)
        found = active_extensions(self._extensions, request.extensions, settings)
        active = tuple(self._with_upscalers(one) for one in found)
        for one in active:
            request = one.extension.on_request(request, one.values)
        values = {one.extension.name: dict(one.values) for one in active}
        if values or request.extensions:
            request = replace(request, extensions=values)
        sampler, schedule = resolve_sampler(request.sampler, request.schedule)
        request = self._resolved_passes(request, settings)
        asked = request.checkpoint or request.overrides.get("sd_model_checkpoint")
        checkpoint = self._library.find(asked) if asked else self.configured(settings)
        if checkpoint.error is not None:
            raise ModelError(checkpoint.error)
        check_references(request, checkpoint)
        resolved = resolve(
            request,
            checkpoint=checkpoint.title,
            recommended=checkpoint.recommended,
            sampler=sampler,
            schedule=schedule,
            prompts=lambda request: self._prompts(request, settings),
        )
        # Again, because one side may have been left open.
        validate(resolved, limits)
        check_script(resolved, active, limits)
        details = [detail for one in active for detail in one.extension.details(one.values)]
        check_details(details, resolved, limits, cast("Library", self._library))
        return resolved

    def _with_faces(self, request: GenerationRequest, settings: Settings) -> GenerationRequest:
        """Return the request with it said whether faces shall be restored."""
        asked = request.restore_faces
        is_wanted = settings.face_restoration if asked is None else asked
        return request if asked is is_wanted else replace(request, restore_faces=is_wanted)

    def _with_upscalers(self, one: Active) -> Active:
        """Return an extension with the upscalers in its values as lists have them.

        A number counts in the list of all (A1111's scripts).
        """
        models, values = self._library.upscalers, dict(one.values)
        for field in one.extension.fields:
            if field.choices == "upscalers":
                name, names = str(values[field.name]), picture_upscaler_names(models)
                if name.isdecimal() and int(name) < len(names):
                    name = names[int(name)]
                values[field.name] = picture_upscaler_name(name, field.api, models)
        return replace(one, values=values)

    def _resolved_passes(self, request: GenerationRequest, settings: Settings) -> GenerationRequest:
        """Return the request with the names of the second pass and of the refiner resolved."""
        values: dict[str, Any] = {}
        if request.hires and settings.use_old_hires_fix_width_height:
            values |= _smaller_first_pass(request)
        if request.hires:
            values["hires_upscaler"] = upscaler_name(
                request.hires_upscaler, "hr_upscaler", self._library.upscalers
            )
            if request.hires_sampler or request.hires_schedule:
                # Of the request as it came, where "Automatic" still means what suits the sampler.
                values["hires_sampler"], values["hires_schedule"] = _of_second_pass(request)
            for name in ("hires_prompt", "hires_negative_prompt"):
                if getattr(request, name) == getattr(request, name.removeprefix("hires_")):
                    values[name] = ""
        if request.hires and request.hires_modules is not None:
            values["hires_modules"] = self._modules_of_second_pass(request.hires_modules, settings)
        for name in ("hires_checkpoint", "refiner"):
            if asked := getattr(request, name):
                values[name] = self._usable(asked, FIELD[name].api)
        # A copy of eighty fields is a tenth of what a request costs beside its job.
        return replace(request, **values) if values else request

    def _modules_of_second_pass(
        self, names: tuple[str, ...], settings: Settings
    ) -> tuple[str, ...] | None:
        """Return the names as lists have them; None where they are the first pass's."""
        try:
            files = self._library.find_modules(names)
        except UnknownName as error:
            field = "hr_additional_modules"
            raise UnknownName(error.kind, error.name, error.known, field) from error
        if files == self._library.find_modules(settings.forge_additional_modules):
            return None
        return tuple(file.name for file in files)

    def _usable(self, name: str, field: str) -> str:
        """Return the title of a checkpoint that another field than the usual one names."""
        try:
            checkpoint = self._library.find(name)
        except UnknownName as error:
            raise UnknownName(error.kind, error.name, error.known, field) from error
        if checkpoint.error is not None:
            raise ModelError(checkpoint.error)
        return checkpoint.title

    def _prompts(self, request: GenerationRequest, settings: Settings) -> GenerationRequest:
        """Return the request with the prompts that the pictures are drawn from."""
        styles = self._styles.chosen(request.styles)
        seeds = [request.image_seed(index) for index in range(request.image_count)]

        def made(prompt: str, negative: bool) -> tuple[str, ...]:
            texts = [style.negative_prompt if negative else style.prompt for style in styles]
            first = NEGATIVE_SEED if negative else 0
            shifted = [seed + first for seed in seeds]
            return picture_prompts(prompt, texts, shifted, self._wildcards, settings)

        hires, against = request.hires_prompt, request.hires_negative_prompt
        return replace(
            request,
            prompts=made(request.prompt, negative=False),
            negative_prompts=made(request.negative_prompt, negative=True),
            hires_prompts=made(hires, negative=False) if hires else (),
            hires_negative_prompts=made(against, negative=True) if against else (),
        )

    def configured(self, settings: Settings) -> Checkpoint:
        """Return the checkpoint of the settings, or the first one when its file is gone (A1111)."""
        name = settings.sd_model_checkpoint
        try:
            return self._library.find(name)
        except (UnknownName, ModelError) as error:
            if not name:
                raise
            fallback = self._library.find("")
            log.warning("%s; using %s", error, fallback.title)
            return fallback


def check_references(request: GenerationRequest, checkpoint: Checkpoint) -> None:
    """Raise `InvalidRequest` where a checkpoint may not refer to as many pictures as are given."""
    given = len(request.references)
    if given and not checkpoint.refers:
        allowed = f"none with {checkpoint.title}; Kontext, Flux.2 and Qwen-Image-Edit take such"
        raise InvalidRequest("reference_images", f"{given} pictures", allowed)
    drawn_over = int(bool(request.init_images))
    if given and given + drawn_over > checkpoint.refers:
        allowed = f"{checkpoint.refers} with {checkpoint.title}, the picture of img2img included"
        raise InvalidRequest("reference_images", f"{given + drawn_over} pictures", allowed)


def resolved_extras(
    request: GenerationRequest, extras: Extras, limits: Limits, models: UpscalerModels
) -> GenerationRequest:
    """Return a request for extras with the upscalers as lists have them; it needs no checkpoint.

    Raises:
        InvalidRequest: a field cannot be used, or a result would be too large.
        UnknownName: no such upscaler.
    """
    extras.check()
    count = len(request.init_images)
    if not 0 < count <= limits.images_per_job:
        allowed = f"1 to {limits.images_per_job}"
        raise InvalidRequest("imageList", f"{count} pictures", allowed)
    extras = replace(
        extras,
        upscaler=picture_upscaler_name(extras.upscaler, "upscaler_1", models),
        second_upscaler=picture_upscaler_name(extras.second_upscaler, "upscaler_2", models),
    )
    field = "upscaling_resize_w" if extras.resize_mode == TO_SIZE else "upscaling_resize"
    for image in request.init_images:
        # What is computed before it is cropped counts.
        width, height = extras.enlarged_size(image.width, image.height)
        if extras.enlarges and width * height > limits.pixels_per_image:
            allowed = f"a result of at most {limits.pixels_per_image} pixels"
            raise InvalidRequest(field, f"{width}x{height}", allowed)
    return replace(
        request, extras=extras, checkpoint="", batch_count=count, batch_size=1, seed=0, subseed=0
    )


def _smaller_first_pass(request: GenerationRequest) -> dict[str, int]:
    """Return sizes with which width and height are those of the second pass.

    The first gets about the area of 512 × 512, sides rounded up to 64 (A1111 before 1.0).
    """
    width, height = request.width or DEFAULT_SIZE, request.height or DEFAULT_SIZE
    if request.hires_width or request.hires_height:
        return {}
    scale = DEFAULT_SIZE / math.sqrt(width * height)
    return {
        "hires_width": width,
        "hires_height": height,
        "width": math.ceil(scale * width / _FIRST_PASS_MULTIPLE) * _FIRST_PASS_MULTIPLE,
        "height": math.ceil(scale * height / _FIRST_PASS_MULTIPLE) * _FIRST_PASS_MULTIPLE,
    }


def permitted(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides that a request may make: nulls and locked settings are left out."""
    kept = {}
    for key, value in overrides.items():
        if key in OPTIONS and OPTIONS[key].locked:
            log.warning("the setting %s cannot be overridden by a request and is ignored", key)
        elif value is not None:
            kept[key] = value
    return kept


def _of_second_pass(request: GenerationRequest) -> tuple[str, str]:
    """Return (sampler, schedule) of the second pass; errors name its fields."""
    try:
        return resolve_sampler(
            request.hires_sampler or request.sampler, request.hires_schedule or request.schedule
        )
    except UnknownName as error:
        row = FIELD["hires_sampler" if error.kind == "sampler" else "hires_schedule"]
        if not getattr(request, row.name):
            raise
        raise UnknownName(error.kind, error.name, error.known, row.api) from error
