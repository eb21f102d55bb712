"""Widgets made from the table of parameters, one per row of `core.fields` that has an element id.

Labels, ranges, steps and defaults are the table's, so the page cannot disagree with the API.
Element ids are A1111's: `txt2img_` and the row's `elem_id`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from sdforge.core.fields import FIELD, Field
from sdforge.core.request import Recommended
from sdforge.sampling.names import sampler_names, schedule_labels
from sdforge.ui.form import default_values

CHOICES: Mapping[str, Callable[[], list[str]]] = {
    "samplers": sampler_names,
    "schedules": schedule_labels,
}
_HOT_KEYS = "(Ctrl+Enter generates, Alt+Enter skips, Esc interrupts, Ctrl+↑/↓ weighs a word)"


def make_widget(tab: str, name: str, **layout: Any) -> Component:
    """Return the widget of one parameter; `layout` goes to Gradio (scale, min_width, …)."""
    row = FIELD[name]
    elem_id = f"{tab}_{row.elem_id}"
    value = default_values(Recommended())[name]
    if row.choices:
        return gr.Dropdown(
            CHOICES[row.choices](), value=value, label=row.label, elem_id=elem_id, **layout
        )
    if row.kind is str:
        return _prompt_box(row, elem_id, layout)
    if row.minimum is None or row.maximum is None:
        return gr.Number(value, label=row.label, precision=0, elem_id=elem_id, **layout)
    return gr.Slider(
        row.minimum,
        row.maximum,
        value=value,
        step=row.step,
        label=row.label,
        elem_id=elem_id,
        **layout,
    )


def _prompt_box(row: Field, elem_id: str, layout: Mapping[str, Any]) -> gr.Textbox:
    # One row's worth of keys is enough: both boxes listen to the same ones.
    hint = f"\n{_HOT_KEYS}" if row.name == "prompt" else ""
    return gr.Textbox(
        label=row.label,
        show_label=False,
        placeholder=f"{row.label}: {row.help[0].lower()}{row.help[1:]}{hint}",
        lines=3,
        max_lines=20,
        elem_id=elem_id,
        elem_classes=["prompt"],
        **layout,
    )
