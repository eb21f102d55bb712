"""A client's ControlNet units → those of a request, in every shape that clients are known to send.

Beside `translate.py`. What belongs to the page of A1111's extension, or to kinds of networks that
are not here, is left out in silence, as that extension does; pictures are stored on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdforge.api.translate_passes import AddInput
from sdforge.core.control import (
    CONTROL_MODES,
    HIRES_OPTIONS,
    RESIZE_MODES,
    UNION_TYPES,
    UNKNOWN_TYPE,
    ControlUnit,
    union_type,
)
from sdforge.core.errors import InvalidRequest
from sdforge.core.inputs import InputImage

# What `alwayson_scripts` calls it.
TITLES = frozenset(("controlnet", "controlnet integrated", "sd-webui-controlnet"))
_JUST_RESIZE, _CROP, _FILL = RESIZE_MODES
_RESIZE_ALIASES = {
    "inner fit (scale to fit)": _CROP,
    "scale to fit (inner fit)": _CROP,
    "outer fit (shrink to fit)": _FILL,
    "envelope (outer fit)": _FILL,
    "3": _JUST_RESIZE,
}
# Members of the extension's enumerations, which some clients send as Python prints them.
_ENUMERATIONS = {
    "controlmode.balanced": CONTROL_MODES[0],
    "controlmode.prompt": CONTROL_MODES[1],
    "controlmode.control": CONTROL_MODES[2],
    "resizemode.resize": _JUST_RESIZE,
    "resizemode.inner_fit": _CROP,
    "resizemode.outer_fit": _FILL,
    "hiresfixoption.both": HIRES_OPTIONS[0],
    "hiresfixoption.low_res_only": HIRES_OPTIONS[1],
    "hiresfixoption.high_res_only": HIRES_OPTIONS[2],
}
# Values of a unit that clients call otherwise.
_CLIENT_NAMES = {"hires_option": "hr_option"}
_ALIASES = {"input_image": "image", "mask": "mask_image", "guidance": "guidance_end"}


def control_units(
    sent: Any, add_input: AddInput, told: Mapping[int, Mapping[str, Any]] | None = None
) -> tuple[ControlUnit, ...]:
    """Return the units that a client switched on.

    Args:
        sent: what stands under the title: {"args": …}, a list of units, or one unit.
        add_input: stores pictures.
        told: what the request's infotext says of units by number; it fills what was not sent.

    Raises:
        InvalidRequest: a value cannot be read; it is named with its unit's number.
    """
    units = sent.get("args", sent) if isinstance(sent, Mapping) else sent
    if isinstance(units, Mapping):
        units = [units]
    if not isinstance(units, Sequence) or isinstance(units, str):
        raise InvalidRequest("controlnet", units, "a list of units under 'args'")
    named = {number: _told(values) for number, values in (told or {}).items()}
    given: list[Any] = [*units, *[None] * (max(named, default=-1) + 1 - len(units))]
    found = [
        _unit(number, _filled(one, named.get(number)), add_input)
        for number, one in enumerate(given)
    ]
    return tuple(unit for unit in found if unit is not None)


def _told(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a unit of an infotext under the names that clients use."""
    return {_CLIENT_NAMES.get(name, name): value for name, value in values.items()}


def _filled(sent: Any, told: Mapping[str, Any] | None) -> Any:
    """Return what a client sent of a unit, and what it left out as the infotext tells it."""
    if told is None or not (sent is None or isinstance(sent, Mapping)):
        return sent
    return {**told, **{key: value for key, value in (sent or {}).items() if value is not None}}


def _unit(number: int, sent: Any, add_input: AddInput) -> ControlUnit | None:
    """Return a unit; None for one that is off, or that is only a page's empty form."""
    name = f"controlnet[{number}]"
    if sent is None:
        return None
    if not isinstance(sent, Mapping):
        raise InvalidRequest(name, sent, "an object with 'model', 'module', 'image', …")
    values = {str(key): value for key, value in sent.items() if value is not None}
    for alias, key in _ALIASES.items():
        if alias in values:
            values.setdefault(key, values[alias])
    if not _truth(values.get("enabled", True)):
        return None
    image, mask = _pictures(values.get("image"))
    mask = values.get("mask_image") or mask
    model = str(values.get("model", "None")).strip()
    if model.casefold() in ("none", "") and not image:
        return None
    # Pillow and NumPy are loaded with the first unit, not at start.
    from sdforge.postprocess.preprocessors import PREPROCESSORS

    module = str(values.get("module", "none"))
    return ControlUnit(
        model=model,
        module=PREPROCESSORS.canonical(module) or module,
        image=_stored(image, f"{name}.image", add_input),
        mask=_stored(mask, f"{name}.mask_image", add_input),
        weight=_number(values, "weight", 1.0, name),
        guidance_start=_number(values, "guidance_start", 0.0, name),
        guidance_end=_number(values, "guidance_end", 1.0, name),
        control_mode=_option(values, "control_mode", CONTROL_MODES, name),
        resize_mode=_option(values, "resize_mode", RESIZE_MODES, name, 1, _RESIZE_ALIASES),
        hires_option=_option(values, "hr_option", HIRES_OPTIONS, name),
        pixel_perfect=_truth(values.get("pixel_perfect", False)),
        processor_res=round(_number(values, "processor_res", -1, name)),
        threshold_a=_number(values, "threshold_a", -1.0, name),
        threshold_b=_number(values, "threshold_b", -1.0, name),
        union_control_type=_union_type(values, name),
        save_detected_map=_truth(values.get("save_detected_map", True)),
    )


def _union_type(values: Mapping[str, Any], name: str) -> str:
    sent = str(values.get("union_control_type", UNKNOWN_TYPE)).strip()
    # As Python prints a member of the extension's enumeration.
    plain = sent.casefold().removeprefix("unioncontrolnettype.").replace("_", " ")
    number = union_type(plain)
    if number is not None:
        return UNION_TYPES[number]
    if plain in ("", "all", "none", UNKNOWN_TYPE.casefold()):
        return UNKNOWN_TYPE
    raise InvalidRequest(f"{name}.union_control_type", sent, ", ".join(UNION_TYPES))


def _pictures(sent: Any) -> tuple[Any, Any]:
    """Return (picture, mask) of what came as a text, as {"image", "mask"}, or in a list.

    A list holds a picture and its mask, both as texts, or one of the other shapes.
    """
    if isinstance(sent, Sequence) and not isinstance(sent, str):
        given: list[Any] = [*sent, None, None]
        first, second = given[:2]
        if isinstance(first, str) and isinstance(second, str):
            return first, second
        sent = first
    if isinstance(sent, Mapping):
        return sent.get("image"), sent.get("mask")
    return sent, None


def _stored(sent: Any, field: str, add_input: AddInput) -> InputImage | None:
    if not sent:
        return None
    if not isinstance(sent, str):
        raise InvalidRequest(field, sent, "a picture in base64")
    from sdforge.postprocess.decoding import decode_base64

    return add_input(decode_base64(sent, field), field)


def _truth(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().casefold() in ("true", "1", "on", "yes")
    return bool(value)


def _number(values: Mapping[str, Any], key: str, default: float, name: str) -> float:
    try:
        return float(values.get(key, default))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{name}.{key}", values[key], "a number") from error


def _option(
    values: Mapping[str, Any],
    key: str,
    options: Sequence[str],
    name: str,
    default: int = 0,
    aliases: Mapping[str, str] | None = None,
) -> str:
    """Return one of a few words, which clients give as such or by their number."""
    value = values.get(key, default)
    folded = str(value).strip().casefold()
    known = {option.casefold(): option for option in options}
    known |= {key: option for key, option in _ENUMERATIONS.items() if option in options}
    known |= {str(number): option for number, option in enumerate(options)}
    found = (known | dict(aliases or {})).get(folded)
    if found is None:
        raise InvalidRequest(f"{name}.{key}", value, ", ".join(options))
    return found
