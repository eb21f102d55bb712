"""A1111's leniency towards what clients send."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sdforge.api.schemas import EXTRAS, Img2ImgRequest, Txt2ImgRequest
from sdforge.core.fields import FIELDS, fields_of


def read(**payload: Any) -> dict[str, Any]:
    return Txt2ImgRequest.model_validate(payload).model_dump()


@pytest.mark.parametrize(
    ("field", "sent", "read_as"),
    [
        ("steps", "20", 20),
        ("steps", 20.0, 20),
        ("steps", 20.7, 20),
        ("steps", True, 1),
        ("seed", "123", 123),
        ("seed", -1.0, -1),
        ("cfg_scale", "7.5", 7.5),
        ("cfg_scale", 7, 7.0),
        ("prompt", 5, "5"),
        ("prompt", 1.5, "1.5"),
        ("sampler_index", 3, "3"),
        ("send_images", "yes", True),
        ("send_images", "off", False),
        ("send_images", 0, False),
        ("tiling", "false", False),
        ("alwayson_scripts", [], {}),
        ("override_settings", [], {}),
    ],
)
def test_values_of_other_types_are_converted(field: str, sent: object, read_as: object) -> None:
    value = read(**{field: sent})[field]
    assert (value, type(value)) == (read_as, type(read_as))


@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ("prompt", ["a"]),
        ("prompt", {}),
        ("steps", "x"),
        ("steps", ""),
        ("steps", []),
        ("steps", float("inf")),
        ("cfg_scale", float("nan")),
        ("send_images", "perhaps"),
        ("send_images", []),
        ("alwayson_scripts", "x"),
        ("styles", "x"),
    ],
)
def test_values_that_mean_nothing_are_refused(field: str, sent: object) -> None:
    with pytest.raises(ValidationError) as caught:
        read(**{field: sent})
    assert caught.value.errors()[0]["loc"] == (field,)


@pytest.mark.parametrize("field", [row.api for row in FIELDS] + [row.name for row in EXTRAS])
def test_null_is_the_same_as_nothing(field: str) -> None:
    assert read(**{field: None}) == read()


def test_unknown_keys_are_ignored() -> None:
    assert read(sd_model_name="x", clip_skip=2, sampler_noise_scheduler_override=None) == read()


def test_defaults_are_not_shared_between_requests() -> None:
    read()["alwayson_scripts"]["x"] = 1
    assert read()["alwayson_scripts"] == {}


def test_every_generation_parameter_is_documented_with_its_limits() -> None:
    properties = Txt2ImgRequest.model_json_schema()["properties"]
    assert properties["steps"]["maximum"] == 1000
    assert all(properties[row.api]["description"] for row in fields_of("txt2img"))
    other = Img2ImgRequest.model_json_schema()["properties"]
    assert all(other[row.api]["description"] for row in fields_of("img2img"))
    assert "enable_hr" not in other and "resize_mode" not in properties
