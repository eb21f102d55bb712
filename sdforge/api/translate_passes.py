"""A1111's fields of passes and pictures → values of a request.

Beside `translate.py`, which reads the rest of a payload: names that mean "the same", the older way
to ask for hires fix, and pictures, which are stored on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from sdforge.core.errors import InvalidRequest, NotFound
from sdforge.core.fields import FIELD
from sdforge.core.inputs import InputImage
from sdforge.core.request import DEFAULT_SIZE
from sdforge.output.infotext_modules import hires_modules

HIRES_MODULES = "hr_additional_modules"

# Stores a decoded file; takes it and the name of its field.
AddInput: TypeAlias = Callable[[bytes, str], InputImage]

_HIRES_DEFAULTS = {name: row.default for name, row in FIELD.items() if name.startswith("hires")}
# What A1111's and Forge's pages send for "as in the first pass", or for none.
_SAME = frozenset(
    ("use same sampler", "use same scheduler", "use same checkpoint", "use same choices", "none")
)
_NAMES = ("hires_checkpoint", "hires_sampler", "hires_schedule", "refiner")


class MissingPicture(NotFound):
    """img2img without a picture; the sentence is A1111's."""


def pass_parameters(values: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's parameters with those of passes made ours.

    What belongs to hires fix or to the refiner counts only where that is switched on.

    Args:
        values: the payload.
        parameters: its fields by our names.

    Raises:
        InvalidRequest: hr_additional_modules is no list of names.
    """
    result = dict(parameters)
    for name in _NAMES:
        value = result.get(name)
        if name in result:
            result[name] = "" if value is None or value.casefold() in _SAME else value
    if not result["refiner"]:
        result["refiner_switch_at"] = None
    if "hires" in result:
        result |= _hires_parameters(values, result) if result["hires"] else _HIRES_DEFAULTS
        if not result["hires"]:
            result["denoising_strength"] = None
    if values.get("mask_blur") is not None:
        result["mask_blur_x"] = result["mask_blur_y"] = values["mask_blur"]
    return result


def _hires_parameters(values: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {
        "hires_modules": hires_modules(values[HIRES_MODULES], HIRES_MODULES),
        "hires_upscaler": result["hires_upscaler"] or FIELD["hires_upscaler"].default,
        # 0 is A1111's "as in the first pass".
        "hires_cfg_scale": result["hires_cfg_scale"] or None,
        "hires_distilled_cfg_scale": result["hires_distilled_cfg_scale"] or None,
    }
    first_width, first_height = values["firstphase_width"], values["firstphase_height"]
    if first_width > 0 or first_height > 0:
        width, height = result["width"] or DEFAULT_SIZE, result["height"] or DEFAULT_SIZE
        changed |= {
            "hires_width": width,
            "hires_height": height,
            "width": first_width or first_height * width // height,
            "height": first_height or first_width * height // width,
        }
    return changed


def given_pictures(values: Mapping[str, Any], kind: str, add_input: AddInput) -> dict[str, Any]:
    """Store the pictures of a payload and return the request's values that refer to them.

    Raises:
        MissingPicture: img2img without init_images.
        InvalidRequest: one is no picture that can be read.
    """
    if kind == "txt2img":
        sent = values["firstpass_image"] if values["enable_hr"] else None
        return {
            "first_picture": stored_picture(sent, "firstpass_image", add_input) if sent else None
        }
    pictures = values["init_images"]
    if not pictures:
        raise MissingPicture("Init image not found")
    batch_size = max(values["batch_size"], 1)
    if len(pictures) > batch_size > 0 and len(pictures) > 1:
        # Before any of them is decoded.
        found = f"{len(pictures)} pictures"
        raise InvalidRequest("init_images", found, f"one, or at most batch_size ({batch_size})")
    mask = values["mask"]
    return {
        "init_images": tuple(stored_picture(one, "init_images", add_input) for one in pictures),
        "mask": stored_picture(mask, "mask", add_input) if mask else None,
    }


def stored_picture(sent: Any, field: str, add_input: AddInput) -> InputImage:
    """Store a picture that came as base64; raises `InvalidRequest` where it is none."""
    if not isinstance(sent, str):
        raise InvalidRequest(field, sent, "a picture in base64")
    # Pillow is loaded with the first picture, not at start.
    from sdforge.postprocess.decoding import decode_base64

    return add_input(decode_base64(sent, field), field)
