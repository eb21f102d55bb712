from __future__ import annotations

import json
from typing import Any

import pytest

from sdforge.core.control import ControlUnit
from sdforge.core.errors import InvalidRequest
from sdforge.ui.control import pasted_units, read_units
from sdforge.ui.tab_actions import PICTURES
from tests.ui.conftest import Backend
from tests.ui.test_tab_actions import filled, stored_picture


def test_units_of_the_panel_become_those_of_the_request(backend: Backend) -> None:
    image = stored_picture(backend)
    unit = {
        "unit": 1, "model": "canny", "module": "invert", "image": image.to_json(), "weight": 0.5,
        "control_mode": "My prompt is more important", "pixel_perfect": True, "processor_res": -1,
    }  # fmt: skip
    values = filled(backend, **{PICTURES: json.dumps({"control": [unit]})})
    assert backend.tab._request(values).control == (
        ControlUnit(
            model="canny",
            module="invert",
            image=image,
            weight=0.5,
            control_mode="My prompt is more important",
            pixel_perfect=True,
        ),
    )
    assert backend.tab._request(filled(backend)).control == ()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"weight": "much"}, "Unit 2: Control Weight"),
        ({"weight": float("nan")}, "Unit 2: Control Weight"),
        ({"resize_mode": "Stretch"}, "Unit 2: Resize Mode"),
        ({"model": "None"}, "Unit 2: Model"),
    ],
)
def test_a_unit_that_cannot_be_used_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        read_units([{"unit": 2, "model": "canny", **changes}])


@pytest.mark.parametrize("sent", ["canny", 3, [7], {"model": "x"}])
def test_what_is_no_list_of_units_is_refused(sent: object) -> None:
    with pytest.raises(InvalidRequest):
        read_units(sent)


def test_a_pasted_text_gives_its_units_and_names_what_is_not_here() -> None:
    fields = {
        "ControlNet 0": "Module: Canny, Model: edges [12345678], Weight: 0.5",
        "ControlNet 1": "Module: openpose_full, Model: gone",
        "ControlNet 4": "Module: canny, Model: edges",
    }
    listed = {"edges [12345678]": "edges [87654321]"}
    units, notes = pasted_units(fields, listed.get)
    assert units == [
        {"unit": 0, "module": "canny", "model": "edges [87654321]", "weight": 0.5},
        {"unit": 1, "module": "none", "model": "None"},
    ]
    assert [note.partition(":")[0] for note in notes] == [
        "ControlNet Unit 1", "ControlNet Unit 1", "The page has no ControlNet unit 4.",
    ]  # fmt: skip
    assert "'gone'" in notes[0]


def test_reading_a_text_tells_the_panel_its_units(backend: Backend) -> None:
    text = 'a fox\nSteps: 2, Sampler: Euler, Seed: 1, ControlNet 1: "Module: canny, Weight: 0.5"'
    answer = backend.tab.read_prompt(filled(backend, prompt=text))["answer"]
    assert answer["control"] == [{"unit": 1, "module": "canny", "model": "None", "weight": 0.5}]
    plain = backend.tab.read_prompt(filled(backend, prompt="a fox\nSteps: 2, Seed: 1, Size: 8x8"))
    assert plain["answer"]["control"] == []


def test_several_pictures_of_a_unit_are_a_job_each(backend: Backend) -> None:
    files = [stored_picture(backend, (64 + 8 * number, 64)) for number in range(3)]
    sent = [{**one.to_json(), "name": f"{number}.png"} for number, one in enumerate(files)]
    still = stored_picture(backend, (32, 32))
    units = [
        {"unit": 0, "model": "edges", "batch": sent},
        {"unit": 1, "model": "depth", "image": still.to_json()},
        {"unit": 2, "model": "lines", "batch": sent[1:]},
    ]
    answer = backend.tab.submit(filled(backend, **{PICTURES: json.dumps({"control": units})}))
    # Units go through theirs together, as far as the shortest reaches.
    ids = answer["answer"]["batch"]
    assert ids[0] == answer["answer"]["accepted"] == "task(x)"
    seen = [
        [unit.image for unit in backend.engine.wait(one, timeout=10).request.control] for one in ids
    ]
    assert seen == [[files[0], still, files[1]], [files[1], still, files[2]]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_dir": "/etc"}, "Input directory: "),
        (
            {"batch": [{"sha256": "0" * 64, "width": 8, "height": 8, "name": "gone.png"}]},
            "gone.png",
        ),
        ({"batch": ["what"]}, "Pictures: "),
    ],
)
def test_a_units_batch_that_cannot_be_used_is_refused(
    backend: Backend, changes: dict[str, Any], words: str
) -> None:
    unit = {"unit": 0, "model": "edges", **changes}
    answer = backend.tab.submit(filled(backend, **{PICTURES: json.dumps({"control": [unit]})}))
    assert words in answer["answer"]["problem"]["message"]


def test_one_batch_at_a_time(backend: Backend) -> None:
    image = stored_picture(backend).to_json()
    pictures = {
        "batch": [{**image, "name": "a.png"}],
        "control": [{"unit": 0, "model": "edges", "batch": [{**image, "name": "b.png"}]}],
    }
    values = filled(backend, "img2img", mode="batch", **{PICTURES: json.dumps(pictures)})
    answer = backend.actions.tabs["img2img"].submit(values)
    assert answer["answer"]["problem"]["message"].startswith("ControlNet: ")
