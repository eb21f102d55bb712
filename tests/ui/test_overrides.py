from __future__ import annotations

import json

from sdforge.ui.checkpoints import Choice
from sdforge.ui.overrides import OVERRIDES, choice_of, read_overrides
from sdforge.ui.tab_actions import PICTURES
from tests.ui.conftest import Backend
from tests.ui.test_tab_actions import filled, stored_picture

INFOTEXT = (
    "a fox\nSteps: 3, Sampler: Euler, CFG scale: 2, Seed: 5, Size: 64x64, Clip skip: 2, ENSD: 31337"
)


def test_what_a_picture_was_made_with_and_settings_say_otherwise_is_pasted(
    backend: Backend,
) -> None:
    values = backend.tab.read_prompt(filled(backend, prompt=INFOTEXT))
    pasted = values[OVERRIDES]
    assert [label for label, _ in pasted.options] == ["Clip skip: 2", "ENSD: 31337"]
    request = backend.tab._request(filled(backend, **{OVERRIDES: pasted.value}))
    assert request.overrides == {"CLIP_stop_at_last_layers": 2, "eta_noise_seed_delta": 31337}
    backend.engine.settings.update({"CLIP_stop_at_last_layers": 2})
    again = backend.tab.read_prompt(filled(backend, prompt=INFOTEXT))[OVERRIDES]
    assert [label for label, _ in again.options] == ["ENSD: 31337"]


def test_the_browser_keeps_the_list_and_cannot_smuggle_in_others() -> None:
    bad = ["x", 7, "[1, 2]", '["outdir_samples", "/"]', '["clip", 1]', '["jpeg_quality", 900]']
    entry = json.dumps(["CLIP_stop_at_last_layers", 3])
    assert choice_of(read_overrides([*bad, entry])) == Choice((("Clip skip: 3", entry),), [entry])
    assert read_overrides("nonsense") == {}


def test_an_estimate_of_the_form_follows_its_largest_pass(backend: Backend) -> None:
    plain = backend.tab.estimate(filled(backend))["answer"]["fit"]
    assert plain["fits"]
    assert plain["asked"] == {"width": 64, "height": 64, "batch_size": 1}
    hires = filled(backend, hires=True, hires_scale=2.0)
    larger = backend.tab.estimate(hires)["answer"]["fit"]
    assert larger["asked"] == {"width": 128, "height": 128, "batch_size": 1}
    assert larger["peak_bytes"] > plain["peak_bytes"]
    assert backend.engine.jobs() == []


def test_an_estimate_of_a_form_that_cannot_run_says_why(backend: Backend) -> None:
    tab = backend.actions.tabs["img2img"]
    answer = tab.estimate(filled(backend, "img2img"))["answer"]["fit"]
    assert "picture to start from" in answer["problem"]
    picture = json.dumps({"init": stored_picture(backend).to_json()})
    values = filled(backend, "img2img", **{PICTURES: picture})
    assert tab.estimate(values)["answer"]["fit"]["fits"]
