from __future__ import annotations

import json

from sdforge.ui.actions import CHECKPOINT, STORED
from sdforge.ui.checkpoints import Choice
from sdforge.ui.tab_actions import ANSWER
from tests.ui.conftest import Backend


def test_a_page_load_shows_the_advice_of_the_current_checkpoint(backend: Backend) -> None:
    values = backend.actions.load_page({STORED: ""})
    assert (values["txt2img/width"], values["img2img/steps"], values["txt2img/sampler"]) == (
        64,
        4,
        "Euler",
    )
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


def test_choosing_a_checkpoint_sets_it_and_begins_to_load_it(backend: Backend) -> None:
    values = backend.actions.load_page({STORED: ""})
    values |= {CHECKPOINT: "large.safetensors", "img2img/height": 96}
    result = backend.actions.change_checkpoint(values)
    assert backend.engine.settings.current.sd_model_checkpoint == "large.safetensors"
    assert (result["txt2img/width"], result["img2img/steps"]) == (1024, 30)
    assert "img2img/height" not in result
    assert result["txt2img/height"] == 1024
    assert result[ANSWER]["page"]["sizes"][1] == (1024, 1024)
    backend.engine.preload().result(timeout=10)
    assert backend.runner.loads[-1] == "large.safetensors"


def test_a_checkpoint_that_cannot_be_used_is_refused(backend: Backend) -> None:
    values = {CHECKPOINT: "broken.safetensors"}
    result = backend.actions.change_checkpoint(values)
    assert "broken.safetensors" in result[ANSWER]["problem"]["message"]
    assert result[CHECKPOINT].value == "small.safetensors"
    assert backend.engine.settings.current.sd_model_checkpoint == "small.safetensors"


def test_a_refresh_finds_a_new_file(backend: Backend) -> None:
    folder = backend.paths.checkpoints[0]
    (folder / "new.safetensors").symlink_to((folder / "small.safetensors").resolve())
    result = backend.actions.refresh_checkpoints({})
    assert "new.safetensors" in [value for _, value in result[CHECKPOINT].options]
