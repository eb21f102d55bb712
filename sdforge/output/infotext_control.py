"""Forge's keys `ControlNet 0`, `ControlNet 1`…: how units steered a picture, read back.

They are written by `ControlUnit.infotext`. The pictures that units looked at are in no text. Texts
of older versions of A1111's extension call some values otherwise, and are read too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from sdforge.core.control import (
    CONTROL_MODES,
    HIRES_OPTIONS,
    MOST_RESOLUTION,
    MOST_UNITS,
    MOST_WEIGHT,
    RESIZE_MODES,
    UNION_TYPES,
)

_KEY = re.compile(r"ControlNet (\d{1,2})")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def _within(least: float, most: float) -> Callable[[str], float | None]:
    def read(text: str) -> float | None:
        number = float(text) if _NUMBER.fullmatch(text) else math.nan
        return number if least <= number <= most else None

    return read


def _resolution(text: str) -> int | None:
    number = _within(-1, MOST_RESOLUTION)(text)
    return None if number is None else round(number)


def _one_of(options: tuple[str, ...]) -> Callable[[str], str | None]:
    known = {option.casefold(): option for option in options}
    return lambda text: known.get(text.casefold())


def _truth(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.casefold())


# Key in the text → value of a unit, and what reads it; None is what cannot be used.
_VALUES: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "module": ("module", str),
    "preprocessor": ("module", str),
    "model": ("model", str),
    "weight": ("weight", _within(0, MOST_WEIGHT)),
    "resize mode": ("resize_mode", _one_of(RESIZE_MODES)),
    "processor res": ("processor_res", _resolution),
    "threshold a": ("threshold_a", _within(-math.inf, math.inf)),
    "threshold b": ("threshold_b", _within(-math.inf, math.inf)),
    "guidance start": ("guidance_start", _within(0, 1)),
    "guidance end": ("guidance_end", _within(0, 1)),
    "pixel perfect": ("pixel_perfect", _truth),
    "control mode": ("control_mode", _one_of(CONTROL_MODES)),
    "hires-fix option": ("hires_option", _one_of(HIRES_OPTIONS)),
    "union control type": ("union_control_type", _one_of(UNION_TYPES)),
    "hr option": ("hires_option", _one_of(HIRES_OPTIONS)),
}
# Older texts: several values in brackets under one key.
_TUPLES: Mapping[str, tuple[str, ...]] = {
    "starting/ending": ("guidance start", "guidance end"),
    "preprocessor params": ("processor res", "threshold a", "threshold b"),
}
# Values may hold commas (a file's name, brackets), so the text is cut at the keys.
_CUT = re.compile(rf"(?:^|,)\s*({'|'.join(map(re.escape, (*_VALUES, *_TUPLES)))}):", re.IGNORECASE)


def control_values(fields: Mapping[str, str]) -> dict[int, dict[str, Any]]:
    """Return the values of `ControlUnit` that an infotext tells, by the units' numbers in order.

    What cannot be used is left out; so is a unit of which nothing is left.
    """
    found: dict[int, dict[str, Any]] = {}
    for key, text in fields.items():
        match = _KEY.fullmatch(key)
        if match and int(match[1]) < MOST_UNITS and (values := _unit(text)):
            found[int(match[1])] = values
    return dict(sorted(found.items()))


def _unit(text: str) -> dict[str, Any]:
    cuts = list(_CUT.finditer(text))
    values: dict[str, Any] = {}
    for number, cut in enumerate(cuts, start=1):
        end = cuts[number].start() if number < len(cuts) else len(text)
        key, told = cut[1].casefold(), text[cut.end() : end].strip()
        keys = _TUPLES.get(key)
        parts = [part.strip() for part in told.strip("()").split(",")] if keys else [told]
        for name, part in zip(keys or (key,), parts, strict=False):
            target, read = _VALUES[name]
            if part and (value := read(part)) is not None:
                values[target] = value
    return values
