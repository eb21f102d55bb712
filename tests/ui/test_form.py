from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdforge.core.errors import InvalidRequest, UnknownName
from sdforge.core.fields import FIELD
from sdforge.core.request import GenerationRequest, Recommended
from sdforge.ui import form

SMALL = Recommended(width=128, height=128, steps=12, cfg_scale=4.0, sampler="Euler")


def test_defaults_make_the_request_that_the_table_says() -> None:
    request = form.request_from_values(form.default_values(Recommended()))
    # All that is switched off is as if the form did not have it.
    assert request == GenerationRequest(
        width=512, height=512, cfg_scale=7.0, distilled_cfg_scale=3.5
    )


def test_defaults_follow_the_checkpoints_advice() -> None:
    request = form.request_from_values(form.default_values(SMALL))
    assert (request.width, request.height, request.steps) == (128, 128, 12)
    assert (request.cfg_scale, request.sampler) == (4.0, "Euler")


def test_every_field_with_an_element_has_a_value_and_the_others_have_none() -> None:
    for tab, names in form.FORM_NAMES.items():
        assert set(form.default_values(Recommended(), tab)) == set(names)
        assert "eta" not in names
    assert "hires" not in form.FORM_NAMES["img2img"]


def test_a_change_of_checkpoint_moves_only_what_the_user_left_alone() -> None:
    values = form.default_values(SMALL) | {"steps": 33}
    changed = form.follow_checkpoint(values, SMALL, Recommended(width=1024, height=1024, steps=25))
    assert changed == {"width": 1024, "height": 1024, "cfg_scale": 7.0, "sampler": "Euler a"}


def test_what_distilled_models_are_told_follows_the_checkpoint() -> None:
    fill = Recommended(distilled_cfg_scale=30.0)
    values = form.default_values(Recommended())
    assert form.follow_checkpoint(values, Recommended(), fill) == {"distilled_cfg_scale": 30.0}
    chosen = values | {"distilled_cfg_scale": 4.0}
    assert form.follow_checkpoint(chosen, Recommended(), fill) == {}


def test_variation_values_count_only_while_extra_is_ticked() -> None:
    values = form.default_values(SMALL) | {"subseed": 5, "subseed_strength": 0.5}
    assert form.request_from_values(values).subseed_strength == 0.0
    ticked = form.request_from_values(values | {form.SEED_EXTRAS: True})
    assert (ticked.subseed, ticked.subseed_strength) == (5, 0.5)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("steps", 20.0, 20),
        ("steps", "25", 25),
        ("cfg_scale", 7, 7.0),
        ("seed", 4294967295, 4294967295),
        ("prompt", None, ""),
    ],
)
def test_widget_values_become_the_fields_type(name: str, value: object, expected: object) -> None:
    read = form.read_value(FIELD[name], value)
    assert read == expected
    assert type(read) is FIELD[name].kind


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 0),
        ("width", None),
        ("steps", 2.5),
        ("steps", "many"),
        ("steps", True),
        ("seed", 2**32),
        ("cfg_scale", math.nan),
        ("cfg_scale", math.inf),
        ("sampler", 3),
        ("batch_size", -1),
    ],
)
def test_a_bad_value_is_refused_with_the_fields_label(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        form.read_value(FIELD[name], value)
    assert form.label_errors(caught.value)[1] == name
    assert caught.value.message.startswith(f"{FIELD[name].label}: ")


def test_the_engines_errors_are_given_the_pages_names() -> None:
    message, name = form.label_errors(InvalidRequest("n_iter", 5000, "at most 1000"))
    assert (message, name) == ("Batch count: got 5000; allowed: at most 1000", "batch_count")
    message, name = form.label_errors(UnknownName("sampler", "Eular", ["Euler"], "sampler_name"))
    assert message.startswith("Sampling method: no sampler named 'Eular'; did you mean 'Euler'?")
    assert name == "sampler"
    assert form.label_errors(InvalidRequest("force_task_id", "", "an id"))[1] is None


def test_a_remembered_form_comes_back() -> None:
    values = form.default_values(SMALL) | {"prompt": "käse 🧀", form.SEED_EXTRAS: True}
    text = json.dumps({"checkpoint": "small.safetensors", "values": values})
    assert form.stored_values(text) == (values, "small.safetensors")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"values": 3}', '{"values": {"steps": "x", "nonsense": 1}}']
)
def test_a_spoilt_memory_is_no_reason_to_fail(text: str) -> None:
    assert form.stored_values(text) == ({}, "")


@given(st.text())
def test_any_text_can_stand_in_the_browsers_storage(text: str) -> None:
    values, checkpoint = form.stored_values(text)
    assert isinstance(values, dict)
    assert isinstance(checkpoint, str)


@pytest.mark.parametrize(
    ("native", "expected"),
    [
        (512, [(512, 512), (768, 768), (1024, 1024), (704, 384), (384, 704)]),
        (128, [(128, 128), (192, 192), (256, 256), (168, 96), (96, 168)]),
        (1024, [(768, 768), (1024, 1024), (1280, 1280), (1344, 768), (768, 1344)]),
    ],
)
def test_sizes_are_built_around_the_native_one(
    native: int, expected: list[tuple[int, int]]
) -> None:
    assert form.size_presets(Recommended(width=native, height=native)) == expected


@given(st.integers(16, 4096))
def test_every_offered_size_can_be_used(native: int) -> None:
    for width, height in form.size_presets(Recommended(width=native, height=native)):
        assert width % 8 == height % 8 == 0
        FIELD["width"].check(width)
        FIELD["height"].check(height)
