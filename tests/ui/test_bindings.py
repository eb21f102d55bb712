from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from sdforge.ui.bindings import bind, call_script
from sdforge.ui.checkpoints import Choice
from sdforge.ui.tab_actions import ANSWER, TASK_ID


class Page:
    """Two fields and a button, bound to one action."""

    def __init__(self, action: Any, before: str | None = None) -> None:
        with gr.Blocks(analytics_enabled=False) as self.blocks:
            self.width = gr.Slider(0, 10, label="width")
            self.choice = gr.Dropdown(["a"], label="choice")
            bind(
                gr.Button().click,
                action,
                inputs={"width": self.width, TASK_ID: gr.Textbox()},
                outputs={"width": self.width, "choice": self.choice},
                before=before,
            )

    def press(self, *values: Any) -> list[Any]:
        result = asyncio.run(self.blocks.process_api(0, list(values)))
        return list(result["data"])


def test_an_action_gets_and_returns_values_by_name() -> None:
    seen: list[Mapping[str, Any]] = []

    def action(values: Mapping[str, Any]) -> dict[str, Any]:
        seen.append(values)
        return {"width": 7, ANSWER: {"note": "done"}}

    width, choice, answer = Page(action).press(3, "task(1)")
    assert seen == [{"width": 3, TASK_ID: "task(1)"}]
    assert width == 7
    assert choice == {"__type__": "update"}
    assert json.loads(answer) == {"note": "done"}


def test_a_value_beyond_the_sliders_end_reaches_the_action() -> None:
    page = Page(lambda values: {"width": values["width"] + 1})
    assert page.press(99, "")[0] == 100


def test_new_choices_reach_the_dropdown() -> None:
    page = Page(lambda values: {"choice": Choice((("A (label)", "a"), ("B", "b")), "b")})
    update = page.press(1, "")[1]
    assert update["choices"] == [["A (label)", "a"], ["B", "b"]]
    assert update["value"] == "b"


def test_a_fault_of_ours_is_told_to_the_page_that_waits() -> None:
    def action(values: Mapping[str, Any]) -> dict[str, Any]:
        raise ZeroDivisionError("secret")

    answer = json.loads(Page(action).press(1, "task(9)")[2])
    assert answer["task"] == "task(9)"
    assert "ZeroDivisionError" in answer["problem"]["message"]
    assert "secret" not in answer["problem"]["message"]


def test_events_are_neither_queued_nor_public() -> None:
    config = Page(lambda values: {}, before="jobs.before_submit").blocks.get_config_file()
    assert [event["queue"] for event in config["dependencies"]] == [False, False]
    assert {event["api_visibility"] for event in config["dependencies"]} == {"private"}
    assert 'page.call("jobs.before_submit", names, values, true)' in config["dependencies"][0]["js"]


def test_names_are_passed_to_scripts_as_json() -> None:
    assert 'const names = ["a\\"b"];' in call_script("module.function", ['a"b'])
