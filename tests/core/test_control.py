"""Units are plain values: they travel as JSON and are checked by name."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sdforge.core.control import ControlUnit
from sdforge.core.errors import InvalidRequest
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest, Limits, validate

PICTURE, MASK = InputImage("a" * 64, 64, 48), InputImage("b" * 64, 64, 48)
UNIT = ControlUnit(model="canny", module="canny", image=PICTURE, mask=MASK, weight=0.5)
LIMITS = Limits(pixels_per_image=2**20, images_per_job=10)


def test_a_request_with_units_travels_as_json_and_names_its_pictures() -> None:
    request = GenerationRequest(prompt="a cat", control=(UNIT, ControlUnit(model="depth")))
    again = GenerationRequest.from_json(json.loads(json.dumps(request.to_json())))
    assert again == request
    assert request.inputs == (PICTURE, MASK)


@pytest.mark.parametrize(
    ("name", "value"),
    [("weight", 2.5), ("weight", float("nan")), ("guidance_end", 1.5), ("processor_res", 9999)],
)
def test_a_value_outside_its_limits_is_named_with_its_unit(name: str, value: float) -> None:
    request = GenerationRequest(control=(UNIT, replace(UNIT, **{name: value})))
    with pytest.raises(InvalidRequest, match=rf"controlnet\[1\]\.{name}"):
        validate(request, LIMITS)


def test_a_unit_acts_between_its_ends_and_in_its_pass() -> None:
    unit = replace(UNIT, guidance_start=0.25, guidance_end=0.5, hires_option="High res only")
    assert [unit.acts_at(part) for part in (0, 0.25, 0.5, 0.75)] == [False, True, True, False]
    assert [unit.acts_in(name) for name in ("base", "hires")] == [False, True]
