"""Shapes of request bodies, with A1111's leniency.

A1111's clients send "20" for 20, 0 for false, null for "as you like" and keys of other forks; all
of that passes here. The generation fields come from `core.fields`, the rest of A1111's payload from
the table `EXTRAS`. What the values mean is `translate.py`'s matter; limits are checked by the
engine, for all clients alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
    model_validator,
)

from sdforge.core.fields import Field as Parameter
from sdforge.core.fields import fields_of

_TRUE = frozenset(("1", "on", "t", "true", "y", "yes"))
_FALSE = frozenset(("0", "off", "f", "false", "n", "no", ""))


def _to_int(value: Any) -> Any:
    if isinstance(value, float) and math.isfinite(value):
        return int(value)
    if isinstance(value, bool):
        return int(value)
    return _number_or_text(value, int)


def _to_float(value: Any) -> Any:
    return float(value) if isinstance(value, bool) else _number_or_text(value, float)


def _number_or_text(value: Any, kind: Callable[[str], Any]) -> Any:
    """Read text as a number; leave what cannot be read for pydantic to report."""
    if not isinstance(value, str):
        return value
    try:
        return kind(value)
    except ValueError:
        return value


def _to_str(value: Any) -> Any:
    return str(value) if isinstance(value, (bool, int, float)) else value


def _to_bool(value: Any) -> Any:
    if isinstance(value, str):
        folded = value.strip().casefold()
        return True if folded in _TRUE else False if folded in _FALSE else value
    return bool(value) if isinstance(value, (int, float)) else value


def _to_dict(value: Any) -> Any:
    return {} if value == [] else _finite(value)


def _finite(value: Any) -> Any:
    """Refuse NaN and infinity, which Python's JSON reader lets in and no client could read back."""
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise ValueError("it holds numbers that are not finite, or is nested too deep") from error
    except TypeError as error:
        # The bytes of a body that was said to be something else than JSON.
        raise ValueError("it is no JSON") from error
    return value


LenientInt = Annotated[int, BeforeValidator(_to_int)]
LenientFloat = Annotated[float, BeforeValidator(_to_float), AllowInfNan(False)]
LenientStr = Annotated[str, BeforeValidator(_to_str)]
LenientBool = Annotated[bool, BeforeValidator(_to_bool)]
LenientDict = Annotated[dict[str, Any], BeforeValidator(_to_dict)]

_TYPES: dict[type, Any] = {
    int: LenientInt,
    float: LenientFloat,
    str: LenientStr,
    bool: LenientBool,
    dict: LenientDict,
    list: Annotated[list[Any], BeforeValidator(_finite)],
}


class LenientModel(BaseModel):
    """A body in which unknown keys are ignored and null means the same as leaving a key out."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


@dataclass(frozen=True)
class Extra:
    """A field of A1111's payload beyond the generation parameters.

    `missing` names the feature that this version lacks; then only the default and the values in
    `off` are accepted. `only` names the one route that has the field.
    """

    name: str
    kind: type
    default: Any = None
    help: str = ""
    missing: str = ""
    off: tuple[Any, ...] = ()
    only: str = ""


# fmt: off
EXTRAS: tuple[Extra, ...] = (
    Extra("sampler_index", str, "Euler", "Older name of sampler_name; used when that is empty."),
    Extra("styles", list, None, "Names of prompt styles; unknown ones are ignored."),
    Extra("override_settings", dict, None, "Settings for this job alone: sd_model_checkpoint…"),
    Extra("override_settings_restore_afterwards", bool, True, "False: keep them afterwards."),
    Extra("send_images", bool, True, "False: answer with an empty list of images."),
    Extra("save_images", bool, False, "Save the pictures (and grid) on the server too."),
    Extra("force_task_id", str, None, "Id of the job; needed to follow it while this call waits."),
    Extra("infotext", str, None, "A picture's infotext; fills the fields that are left out."),
    Extra("script_name", str, None, "A selectable script, see /sdapi/v1/scripts."),
    Extra("script_args", list, (), "Arguments of script_name."),
    Extra("alwayson_scripts", dict, (), "Other scripts: {title: {args: […]}}."),
    Extra("do_not_save_samples", bool, False, "Ignored, as in A1111: save_images decides."),
    Extra("do_not_save_grid", bool, False, "Ignored, as in A1111: save_images decides."),
    Extra("disable_extra_networks", bool, False, "Leave <lora:…> in the prompt as text."),
    Extra("comments", dict, None, "Ignored."),
    Extra("hr_distilled_cfg", float, 3.5, "No effect: there is no second pass.", only="img2img"),
    Extra("firstphase_width", int, 0, "Older way to ask for hires fix.", only="txt2img"),
    Extra("firstphase_height", int, 0, "Older way to ask for hires fix.", only="txt2img"),
    Extra("firstpass_image", str, None, "Base64: hires fix enlarges this instead.", only="txt2img"),
    Extra("hr_additional_modules", list, None, "Its VAE and text encoders.", only="txt2img"),
    Extra("init_images", list, (), "Base64: one to start from, or one a picture.", only="img2img"),
    Extra("mask", str, None, "Base64: white or opaque parts are redrawn.", only="img2img"),
    Extra("mask_blur", int, None, "Sets mask_blur_x and mask_blur_y.", only="img2img"),
    Extra("latent_mask", str, None, "Ignored.", only="img2img"),
    Extra("reference_images", list, (), "Base64: what Kontext, Flux.2, Qwen-Image-Edit refer to."),
    Extra("include_init_images", bool, False, "Echo init_images and mask.", only="img2img"),
)
# fmt: on

# A1111 leaves these null and so do we: null lets sampler_index and merged names speak.
_NULL_BY_DEFAULT = frozenset(
    ("sampler_name", "scheduler", "refiner_checkpoint", "hr_upscaler", "hr_checkpoint_name",
     "hr_sampler_name", "hr_scheduler")
)  # fmt: skip


def _parameter_definition(row: Parameter) -> tuple[Any, Any]:
    default = None if row.api in _NULL_BY_DEFAULT else row.api_default
    limits = {"minimum": row.lowest, "maximum": row.highest}
    schema = {key: value for key, value in limits.items() if value is not None}
    field = Field(
        default=default, title=row.label, description=row.help, json_schema_extra=dict(schema)
    )
    return _optional(_TYPES[row.kind], default), field


def _extra_definition(row: Extra) -> tuple[Any, Any]:
    text = row.help or f"Not in this version ({row.missing}); anything but off answers 422."
    if row.default == ():
        factory: Any = dict if row.kind is dict else list
        return _TYPES[row.kind], Field(default_factory=factory, description=text)
    return _optional(_TYPES[row.kind], row.default), Field(default=row.default, description=text)


def _optional(kind: Any, default: Any) -> Any:
    return kind | None if default is None else kind


def extras_of(kind: str) -> tuple[Extra, ...]:
    """Return the further fields of a route's payload."""
    return tuple(row for row in EXTRAS if row.only in ("", kind))


def _model(name: str, kind: str) -> type[LenientModel]:
    definitions: dict[str, Any] = {row.api: _parameter_definition(row) for row in fields_of(kind)}
    definitions |= {row.name: _extra_definition(row) for row in extras_of(kind)}
    return create_model(
        name,
        __base__=LenientModel,
        __doc__=f"A1111's {kind} payload. Everything is optional; unknown keys are ignored.",
        **definitions,
    )


if TYPE_CHECKING:

    class Txt2ImgRequest(LenientModel):
        """What type checkers see of the model that is made below."""

    class Img2ImgRequest(LenientModel):
        """The same for img2img."""

else:
    Txt2ImgRequest = _model("Txt2ImgRequest", "txt2img")
    Img2ImgRequest = _model("Img2ImgRequest", "img2img")


class GenerationResponse(BaseModel):
    """What txt2img and img2img answer."""

    images: list[str] = Field(description="Base64, without a data: prefix; a grid comes first.")
    parameters: dict[str, Any] = Field(description="The request with its defaults filled in.")
    info: str = Field(description="A JSON object as text: seeds, prompts, infotexts, model.")


class PngInfoResponse(BaseModel):
    """What a picture says of itself."""

    info: str = Field(description="Its infotext, empty where there is none.")
    items: dict[str, Any] = Field(description="Other texts in the file.")
    parameters: dict[str, str] = Field(description="The infotext parsed; all values are text.")
    note: str = Field(description="Which other program wrote it, or why that cannot be read.")


class PngInfoRequest(LenientModel):
    """A picture whose infotext is wanted."""

    image: LenientStr = Field(description="Base64 or a data: URI.")


class ProgressRequest(LenientModel):
    """The page's question about one job."""

    id_task: LenientStr | None = Field(default=None, description="Id of the job.")
    id_live_preview: LenientInt = Field(default=-1, description="Number of the preview it has.")
    live_preview: LenientBool = Field(default=True, description="Whether it wants a preview.")
    with_job: LenientBool = Field(default=False, description="Whether it wants the job's state.")


class TokensRequest(LenientModel):
    """Prompts whose tokens are to be counted."""

    prompt: LenientStr = Field(default="", description="As typed.")
    negative_prompt: LenientStr = Field(default="", description="As typed.")
    styles: list[Any] = Field(default=[], description="Names of the styles to apply.")
    steps: LenientInt = Field(default=20, ge=1, le=1000, description="Sampling steps.")


class StyleRequest(LenientModel):
    """A style to keep; unlike A1111's fields only text is text here, or false would be a name."""

    name: str = Field(description="By which requests name it.")
    prompt: str = Field(default="", description="May hold {prompt}.")
    negative_prompt: str = Field(default="", description="May hold {prompt}.")


class ErrorBody(BaseModel):
    """Every error: A1111's and Forge's keys together."""

    error: str = Field(description="Kind of error.")
    detail: Any = Field(description="A sentence, or for wrong fields a list of {type, loc, msg}.")
    body: str = Field(description="Always empty.")
    errors: str = Field(description="A sentence for people.")
    message: str = Field(description="The same sentence.")
