"""ControlNet units as the page's scripts send them → those of a request, and from a text back.

The panel (`assets/controlnet.js`) sends the units that are switched on, with names of stored
pictures; its other values never leave the browser. What a picture's text says of units goes to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sdforge.core.control import (
    CONTROL_MODES,
    HIRES_OPTIONS,
    RESIZE_MODES,
    UNIT_COUNT,
    UNKNOWN_TYPE,
    ControlUnit,
)
from sdforge.core.errors import InvalidRequest
from sdforge.core.inputs import InputImage
from sdforge.engine.picture_batch import PictureBatch
from sdforge.output.infotext_control import control_values

_NUMBERS: Mapping[str, tuple[str, float]] = {
    "weight": ("Control Weight", 1.0),
    "guidance_start": ("Starting Control Step", 0.0),
    "guidance_end": ("Ending Control Step", 1.0),
    "processor_res": ("Preprocessor Resolution", -1),
    "threshold_a": ("Threshold A", -1.0),
    "threshold_b": ("Threshold B", -1.0),
}
_WORDS: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "control_mode": ("Control Mode", CONTROL_MODES, CONTROL_MODES[0]),
    "resize_mode": ("Resize Mode", RESIZE_MODES, RESIZE_MODES[1]),
    "hires_option": ("Hires-Fix Option", HIRES_OPTIONS, HIRES_OPTIONS[0]),
}


def read_units(sent: Any) -> tuple[ControlUnit, ...]:
    """Return the units of a form.

    Raises:
        InvalidRequest: a value cannot be used; it is named as the panel labels it.
    """
    if sent is None:
        return ()
    if not isinstance(sent, Sequence) or isinstance(sent, str):
        raise InvalidRequest("ControlNet", str(sent)[:40], "a list of units")
    return tuple(_unit(one) for one in sent)


def read_batches(sent: Any) -> dict[int, PictureBatch]:
    """Return the pictures that units look at in turn, by the units' places in what was sent."""
    found: dict[int, PictureBatch] = {}
    for place, unit in enumerate(sent or ()):
        folder = str(unit.get("batch_dir") or "").strip()
        given = () if folder else unit.get("batch") or ()
        images = [(InputImage.from_json(one), str(one.get("name") or "")) for one in given]
        if folder or images:
            found[place] = PictureBatch(images=tuple(images), input_dir=folder)
    return found


def _unit(sent: Any) -> ControlUnit:
    if not isinstance(sent, Mapping):
        raise InvalidRequest("ControlNet", str(sent)[:40], "a unit's values")
    number = sent.get("unit", 0)
    values: dict[str, Any] = {
        name: _number(sent.get(name, default), f"ControlNet Unit {number}: {label}")
        for name, (label, default) in _NUMBERS.items()
    }
    values["processor_res"] = round(values["processor_res"])
    values |= {name: _word(sent.get(name), number, *row) for name, row in _WORDS.items()}
    if not sent.get("model") or sent["model"] == "None":
        allowed = "one of the models in the folder models/ControlNet"
        raise InvalidRequest(f"ControlNet Unit {number}: Model", "none", allowed)
    for name in ("image", "mask"):
        values[name] = InputImage.from_json(sent[name]) if sent.get(name) else None
    return ControlUnit(
        union_control_type=str(sent.get("union_control_type", UNKNOWN_TYPE)),
        model=str(sent["model"]),
        module=str(sent.get("module") or "none"),
        pixel_perfect=bool(sent.get("pixel_perfect")),
        **values,
    )


def _number(value: Any, label: str) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise InvalidRequest(label, value, "a number")
    return float(value)


def _word(value: Any, number: Any, label: str, options: tuple[str, ...], default: str) -> str:
    chosen = default if value is None else value
    if chosen not in options:
        raise InvalidRequest(f"ControlNet Unit {number}: {label}", value, ", ".join(options))
    return str(chosen)


def pasted_units(
    fields: Mapping[str, str], known_model: Callable[[str], str | None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the units that an infotext tells, as the panel keeps them, and what it lacks.

    Args:
        fields: the infotext's.
        known_model: returns the listed name of a ControlNet, None where there is none of it.

    Returns:
        units, each with its number under "unit"; and a sentence for each name that is not here.
    """
    from sdforge.postprocess.preprocessors import PREPROCESSORS

    units, notes = [], []
    lists: tuple[tuple[str, str, str, Callable[[str], str | None]], ...] = (
        ("model", "Model", "None", known_model),
        ("module", "Preprocessor", "none", PREPROCESSORS.canonical),
    )
    for number, told in control_values(fields).items():
        if number >= UNIT_COUNT:
            notes.append(f"The page has no ControlNet unit {number}.")
            continue
        unit = dict(told)
        for name, label, none, known in lists:
            asked = told.get(name, none)
            found = none if asked.casefold() in ("none", "") else known(asked)
            if found is None:
                notes.append(f"ControlNet Unit {number}: {label} {asked!r} is not known here.")
            unit[name] = found or none
        units.append({"unit": number, **unit})
    return units, notes
