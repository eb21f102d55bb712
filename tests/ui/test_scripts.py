"""Sweeps that the page's form asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdforge.sweeps.sweeps import Sweeps
from sdforge.ui.actions import PageActions
from sdforge.ui.tab_actions import ANSWER, TASK_ID, TabActions, Values
from tests.ui.conftest import Backend, as_sent

PATIENCE = 60.0


@pytest.fixture
def parts(backend: Backend) -> Iterator[tuple[TabActions, Sweeps]]:
    """The actions of the txt2img tab of a page with sweeps, and those."""
    sweeps = Sweeps(backend.engine, backend.paths)
    yield PageActions(backend.engine, sweeps).tabs["txt2img"], sweeps


def a_form(actions: TabActions, title: str, **values: object) -> Values:
    script = json.dumps({"title": title, "values": values})
    return as_sent(actions.load("")) | {"prompt": "a cat", "script": script, TASK_ID: "task(one)"}


def test_a_form_with_a_script_begins_a_sweep(parts: tuple[TabActions, Sweeps]) -> None:
    actions, sweeps = parts
    form = a_form(actions, "X/Y/Z plot", x_type="Seed", x_values="1-3", draw_legend=False)
    answer = actions.submit(form)[ANSWER]
    assert answer["task"] == "task(one)" and "accepted" not in answer
    done = sweeps.wait(answer["sweep"], PATIENCE)
    assert done.manifest.origin == "ui" and done.manifest.shape == (3, 1, 1)
    assert done.manifest.options.draw_legend is False
    assert Path(done.cells[0].pictures[0].path).is_file()


def test_a_dry_run_says_what_it_would_take(parts: tuple[TabActions, Sweeps]) -> None:
    actions, sweeps = parts
    form = a_form(actions, "Prompt matrix") | {"prompt": "a|b|c"}
    plan = actions.plan_sweep(form)[ANSWER]["plan"]
    assert plan["text"].startswith("4 cells, 1 model load") and plan["fits"] is True
    assert sweeps.newest(1) == []
    assert actions.plan_sweep(form | {"script": ""})[ANSWER]["plan"] == {}


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ({"title": "X/Y/Z plot", "values": {"x_type": "Steps", "x_values": "x"}}, "Steps"),
        ({"title": "Nothing like it", "values": {}}, "Nothing like it"),
        ({"title": "X/Y/Z plot", "values": {"x_typo": 1}}, "x_typo"),
        ({"title": "X/Y/Z plot"}, "what the page sends"),
        ([], "what the page sends"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(
    parts: tuple[TabActions, Sweeps], script: object, said: str
) -> None:
    actions, sweeps = parts
    form = a_form(actions, "X/Y/Z plot") | {"script": json.dumps(script)}
    assert said in actions.submit(form)[ANSWER]["problem"]["message"]
    assert said in actions.plan_sweep(form)[ANSWER]["plan"]["problem"]
    assert sweeps.newest(1) == []
