"""Styles in the page's form, and the counters beside the prompts."""

from __future__ import annotations

from sdforge.ui import form
from sdforge.ui.tab_actions import ANSWER, COUNTED, TASK_ID
from tests.ui.conftest import Backend, as_sent


def write_styles(backend: Backend) -> None:
    (backend.paths.data / "styles.csv").write_text("name,prompt,negative_prompt\noil,oil,photo\n")


def test_the_page_offers_the_styles_there_are(backend: Backend) -> None:
    write_styles(backend)
    stored = '{"checkpoint": "", "values": {"styles": ["gone", "oil", 3]}}'
    choice = backend.tab.load(stored)[form.STYLES]
    assert choice.options == (("oil", "oil"),)
    assert choice.value == ["oil"]
    assert backend.tab.load("")[form.STYLES].value == []


def test_an_edited_list_of_styles_is_offered_anew(backend: Backend) -> None:
    write_styles(backend)
    backend.engine.styles.save("ink", "ink of {prompt}", "")
    choice = backend.tab.refresh_styles({form.STYLES: ["ink", "gone"]})[form.STYLES]
    assert [name for name, _ in choice.options] == ["oil", "ink"]
    assert choice.value == ["ink"]


def test_chosen_styles_reach_the_job(backend: Backend) -> None:
    write_styles(backend)
    values = as_sent(backend.tab.load("")) | {
        "prompt": "a cat", "seed": 1, form.STYLES: ["oil"], TASK_ID: "task(x)",
    }  # fmt: skip
    backend.tab.submit(values)
    request = backend.engine.get("task(x)").request
    assert (request.styles, request.prompts) == (("oil",), ("a cat, oil",))


def test_counters_know_styles_and_steps(backend: Backend) -> None:
    write_styles(backend)
    values = {
        "prompt": "[a:b c d:5] <lora:x:1>", "negative_prompt": "a AND b", "steps": 20,
        form.STYLES: ["oil"],
    }  # fmt: skip
    assert set(values) == set(COUNTED)
    assert backend.tab.count_tokens(values)[ANSWER]["tokens"] == {
        "prompt": (5, 75), "negative_prompt": (5, 75),
    }  # fmt: skip
    early = values | {"steps": 3}
    assert backend.tab.count_tokens(early)[ANSWER]["tokens"]["prompt"] == (3, 75)
    assert backend.tab.count_tokens({"steps": None})[ANSWER]["tokens"]["prompt"] == (0, 75)


def test_a_pasted_picture_brings_its_styles_in_its_prompt(backend: Backend) -> None:
    text = "a cat, oil\nSteps: 5, Sampler: Euler, CFG scale: 3.0, Seed: 7"
    pasted = backend.tab.read_prompt({"prompt": text, form.STYLES: ["oil"]})
    assert (pasted["prompt"], pasted[form.STYLES]) == ("a cat, oil", [])
