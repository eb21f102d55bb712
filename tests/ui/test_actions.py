from __future__ import annotations

import json
from typing import Any

import pytest

from sdforge.core.errors import NotFound
from sdforge.engine import JobStatus
from sdforge.ui import form
from sdforge.ui.actions import ANSWER, CHECKPOINT, STORED, TASK_ID, Choice
from tests.ui.conftest import Backend

INFOTEXT = (
    "a red fox\nNegative prompt: blurry\nSteps: 31, Sampler: Euler, Schedule type: Karras, "
    "CFG scale: 5.5, Seed: 77, Size: 192x128, Model hash: 0123456789, Model: other, "
    "Variation seed: 9, Variation seed strength: 0.25, Batch size: 4, Version: x"
)


def filled(backend: Backend, **changes: Any) -> dict[str, Any]:
    return {**backend.actions.load_page({STORED: ""}), TASK_ID: "task(x)", **changes}


def test_a_page_load_shows_the_advice_of_the_current_checkpoint(backend: Backend) -> None:
    values = backend.actions.load_page({STORED: ""})
    assert (values["width"], values["steps"], values["sampler"]) == (64, 4, "Euler")
    assert isinstance(values[CHECKPOINT], Choice)
    assert values[CHECKPOINT].value == "small.safetensors"
    labels = [label for label, _ in values[CHECKPOINT].options]
    assert {"small.safetensors", "large.safetensors"} <= set(labels)
    assert values[ANSWER]["page"]["sizes"][0] == (64, 64)


def test_a_page_load_changes_no_setting(backend: Backend) -> None:
    before = backend.engine.settings.current
    backend.actions.load_page({STORED: json.dumps({"checkpoint": "large.safetensors"})})
    backend.actions.show_checkpoint({})
    assert backend.engine.settings.current == before
    assert not backend.paths.settings.exists()


def test_what_the_browser_remembers_wins_over_the_advice(backend: Backend) -> None:
    stored = {"checkpoint": "small.safetensors", "values": {"width": 256, "prompt": "hi"}}
    values = backend.actions.load_page({STORED: json.dumps(stored)})
    assert (values["width"], values["height"], values["prompt"]) == (256, 64, "hi")


def test_a_form_remembered_for_another_checkpoint_follows_to_this_one(backend: Backend) -> None:
    stored = {
        "checkpoint": "large.safetensors",
        "values": {"width": 1024, "height": 768, "steps": 30, "prompt": "hi"},
    }
    values = backend.actions.load_page({STORED: json.dumps(stored)})
    assert (values["width"], values["height"], values["steps"]) == (64, 768, 4)


def test_submit_makes_a_job_with_the_pages_id(backend: Backend) -> None:
    answer = backend.actions.submit(filled(backend, prompt="a cat", seed=11.0))[ANSWER]
    assert answer == {"task": "task(x)", "accepted": "task(x)"}
    job = backend.engine.wait("task(x)", timeout=10)
    assert (job.status, job.origin) == (JobStatus.DONE, "ui")
    assert (job.request.prompt, job.request.seed, job.request.width) == ("a cat", 11, 64)


@pytest.mark.parametrize(
    ("name", "value", "label"),
    [
        ("width", 5, "Width"),
        ("steps", None, "Sampling steps"),
        ("sampler", "Eular", "Sampling method"),
        ("batch_count", 1000, "Batch count"),
        ("seed", "x", "Seed"),
    ],
)
def test_a_bad_value_is_answered_with_its_field(
    backend: Backend, name: str, value: object, label: str
) -> None:
    changes = {name: value} | ({"batch_size": 8} if name == "batch_count" else {})
    answer = backend.actions.submit(filled(backend, **changes))[ANSWER]
    assert answer["task"] == "task(x)"
    assert answer["problem"]["field"] == name
    assert answer["problem"]["message"].startswith(label)
    with pytest.raises(NotFound):
        backend.engine.get("task(x)")


def test_the_same_form_sent_twice_makes_one_job(backend: Backend) -> None:
    backend.actions.submit(filled(backend))
    answer = backend.actions.submit(filled(backend))[ANSWER]
    assert "problem" in answer
    assert len(backend.engine.jobs()) == 1


def test_choosing_a_checkpoint_sets_it_and_begins_to_load_it(backend: Backend) -> None:
    values = filled(backend, **{CHECKPOINT: "large.safetensors", "height": 96})
    result = backend.actions.change_checkpoint(values)
    assert backend.engine.settings.current.sd_model_checkpoint == "large.safetensors"
    assert (result["width"], result["steps"]) == (1024, 30)
    assert "height" not in result
    assert result[ANSWER]["page"]["sizes"][1] == (1024, 1024)
    backend.engine.preload().result(timeout=10)
    assert backend.runner.loads[-1] == "large.safetensors"


def test_a_checkpoint_that_cannot_be_used_is_refused(backend: Backend) -> None:
    values = filled(backend, **{CHECKPOINT: "broken.safetensors"})
    result = backend.actions.change_checkpoint(values)
    assert "broken.safetensors" in result[ANSWER]["problem"]["message"]
    assert result[CHECKPOINT].value == "small.safetensors"
    assert backend.engine.settings.current.sd_model_checkpoint == "small.safetensors"


def test_a_refresh_finds_a_new_file(backend: Backend) -> None:
    folder = backend.paths.checkpoints[0]
    (folder / "new.safetensors").symlink_to((folder / "small.safetensors").resolve())
    result = backend.actions.refresh_checkpoints({})
    assert "new.safetensors" in [value for _, value in result[CHECKPOINT].options]


def test_reading_a_pictures_text_fills_the_form(backend: Backend) -> None:
    result = backend.actions.read_prompt(filled(backend, prompt=INFOTEXT))
    assert (result["prompt"], result["negative_prompt"]) == ("a red fox", "blurry")
    assert (result["steps"], result["sampler"], result["schedule"]) == (31, "Euler", "Karras")
    assert (result["width"], result["height"], result["cfg_scale"]) == (192, 128, 5.5)
    assert (result["seed"], result["subseed"], result["subseed_strength"]) == (77, 9, 0.25)
    assert result[form.SEED_EXTRAS] is True
    assert "batch_size" not in result


def test_names_are_read_in_any_spelling_and_unknown_ones_are_left(backend: Backend) -> None:
    text = "owl\nSteps: 9, Sampler: k_euler, Schedule type: Unheard, Seed: 1"
    result = backend.actions.read_prompt(filled(backend, prompt=text))
    assert (result["sampler"], result["steps"]) == ("Euler", 9)
    assert "schedule" not in result
    assert "Schedule type 'Unheard' is not known here." in result[ANSWER]["note"]


def test_a_prompt_without_parameters_stays_as_it_is(backend: Backend) -> None:
    result = backend.actions.read_prompt(filled(backend, prompt="just a red fox"))
    assert set(result) == {ANSWER}
    assert "no parameters" in result[ANSWER]["note"]


def test_tokens_are_counted_for_both_prompts(backend: Backend) -> None:
    counts = backend.actions.count_tokens({"prompt": "a red fox", "negative_prompt": ""})[ANSWER]
    assert [list(pair) for pair in counts["tokens"].values()] == [[3, 75], [0, 75]]
