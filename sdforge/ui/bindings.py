"""Connects widgets with actions, by name.

Gradio passes values by position; here an action gets one dict and returns one, so that adding a
field moves nothing. Every event is small and unqueued: pictures are made by the engine's jobs,
never inside an event. Raw values are passed (no preprocessing), so that a bad one is reported by
our own table, with the field's name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import gradio as gr
from gradio.components import Component

from sdforge.ui.actions import unexpected
from sdforge.ui.checkpoints import Choice
from sdforge.ui.tab_actions import ANSWER, Values

log = logging.getLogger(__name__)

Action = Callable[[Mapping[str, Any]], Values]
Widgets = Mapping[str, Component]
Trigger = Callable[..., Any]

NOTHING: Widgets = MappingProxyType({})


def bind(
    trigger: Trigger,
    action: Action,
    *,
    inputs: Widgets = NOTHING,
    outputs: Widgets = NOTHING,
    before: str | None = None,
    is_first: bool = False,
) -> None:
    """Run `action` on the server at each `trigger`, then hand its answer to the page's scripts.

    Args:
        trigger: an event of a widget, such as `button.click`.
        action: gets the values of `inputs` by name, returns values for some of `outputs`.
        inputs: widgets whose values are sent.
        outputs: widgets that may change; an `ANSWER` goes to the page's scripts.
        before: function of the page's scripts (`module.function`) that gets the input values by
            name just before they are sent and may return others.
        is_first: the widgets stand as they were laid out; values that they have are not sent again.
    """
    names = list(inputs)
    # One for each action: of two that end together, neither hides the other's answer.
    answer = gr.Textbox(label=ANSWER, visible="hidden")
    outputs = {**outputs, ANSWER: answer}

    # Gradio counts parameters to find what to pass, and takes any number here.
    def run(*values: Any) -> dict[Component, Any]:
        given = dict(zip(names, values, strict=True))
        try:
            result = action(given)
        except Exception as error:
            # The page must hear of it, or it would wait for a job that was never made.
            log.exception("the page's action %s failed", action)
            result = {ANSWER: unexpected(error, given)}
        return {
            outputs[name]: _to_gradio(value)
            for name, value in result.items()
            if not (is_first and _has_value(outputs[name], value))
        }

    event = trigger(
        run,
        inputs=list(inputs.values()),
        outputs=list(outputs.values()),
        js=call_script(before, names) if before else None,
        **_QUIET,
        preprocess=False,
        # Else Gradio looks every output up, and those of all earlier events, twice an event.
        show_progress_on=answer,
    )
    event.then(None, [answer], None, js=call_script("answers.take", [ANSWER]), **_QUIET)


def bind_script(trigger: Trigger, function: str, widgets: Widgets, *, sets: bool = False) -> None:
    """Call a function of the page's scripts with the widgets' values by name.

    With `sets`, the values that it returns are put into the widgets.
    """
    components = list(widgets.values())
    trigger(
        None,
        inputs=components,
        outputs=components if sets else None,
        js=call_script(function, list(widgets), keeps=False),
        **_QUIET,
    )


def call_script(function: str, names: list[str], *, keeps: bool = True) -> str:
    """Return JavaScript that calls `function` with one object of values by name.

    The scripts may still be loading when Gradio's first event fires, hence `ready`. Values that the
    function returns replace the given ones; with `keeps` the others follow as they were given, to
    be sent on, without it they are nothing, and their widgets are left alone.
    """
    return (
        "async (...values) => {"
        f" const names = {json.dumps(names)};"
        " const page = await window.sdforge.ready;"
        f" return page.call({json.dumps(function)}, names, values, {json.dumps(keeps)}); }}"
    )


# "multiple": a second press while the first is under way counts too.
_QUIET: dict[str, Any] = {
    "queue": False,
    "trigger_mode": "multiple",
    "show_progress": "hidden",
    "api_visibility": "private",
}


def _has_value(widget: Component, value: Any) -> bool:
    """Say whether a widget was laid out with a value; choices are always news."""
    return not isinstance(value, (dict, Choice)) and bool(widget.value == value)


def _to_gradio(value: Any) -> Any:
    if isinstance(value, Choice):
        return gr.update(choices=list(value.options), value=value.value)
    return json.dumps(value) if isinstance(value, dict) else value
