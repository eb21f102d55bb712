"""The table of parameters and the request agree, and limits are enforced."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdforge.core.errors import InvalidRequest
from sdforge.core.fields import FIELD, FIELDS
from sdforge.core.request import GenerationRequest

# Attributes that are not parameters of the picture's making but of the job.
NOT_IN_TABLE = {
    "checkpoint",
    "overrides",
    "extensions",
    "control",
    "styles",
    "prompts",
    "negative_prompts",
    "hires_modules",
    "hires_prompts",
    "hires_negative_prompts",
    "init_images",
    "mask",
    "first_picture",
    "references",
    "reference_side",
    "extras",
    "merge",
    "folder",
    "file_name",
    "disable_extra_networks",
}


def test_every_request_attribute_has_a_row_with_the_same_default() -> None:
    attributes = {
        f.name: f.default for f in fields(GenerationRequest) if f.name not in NOT_IN_TABLE
    }
    assert attributes == {row.name: row.default for row in FIELDS}


@pytest.mark.parametrize("column", ["name", "api", "elem_id", "label"])
def test_names_are_unique(column: str) -> None:
    values = [getattr(row, column) for row in FIELDS if getattr(row, column) is not None]
    assert len(values) == len(set(values))


def test_defaults_pass_their_own_check() -> None:
    for row in FIELDS:
        row.check(row.default)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 0),
        ("width", -8),
        ("steps", 10**9),
        ("steps", 0),
        ("steps", 2.5),
        ("steps", True),
        ("steps", None),
        ("batch_size", "2"),
        ("cfg_scale", float("nan")),
        ("cfg_scale", float("inf")),
        ("seed", 2**32),
        ("seed", -2),
        ("prompt", ["a"]),
        ("prompt", None),
        ("subseed_strength", 1.01),
    ],
)
def test_unusable_values_are_refused_with_the_api_name(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        FIELD[name].check(value)
    assert caught.value.field == FIELD[name].api
    assert FIELD[name].allowed() in str(caught.value)


@given(
    st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.booleans(), st.lists(st.none()))
)
def test_check_answers_every_value_with_yes_or_invalid_request(value: object) -> None:
    for row in FIELDS:
        try:
            row.check(value)
        except InvalidRequest:
            continue
