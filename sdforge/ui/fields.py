"""Widgets made from the table of parameters, one per row of `core.fields` that has an element id.

Labels, ranges, steps and defaults are the table's, so the page cannot disagree with the API.
Element ids are A1111's: the tab's name, "_" and the row's `elem_id`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from sdforge.core.fields import FIELD, Field
from sdforge.core.request import Recommended
from sdforge.postprocess.upscalers import LATENT_MODES, UPSCALERS
from sdforge.sampling.names import sampler_names, schedule_labels
from sdforge.ui.form import default_values


def _upscaler_names() -> list[str]:
    return [*LATENT_MODES.names(), *UPSCALERS.names()]


def _no_names() -> list[str]:
    # Scanning folders must not delay the page: the load event brings them.
    return []


CHOICES: Mapping[str, Callable[[], list[str]]] = {
    "samplers": sampler_names,
    "schedules": schedule_labels,
    "upscalers": _upscaler_names,
    "checkpoints": _no_names,
}
# What an empty name means, as the list says it.
EMPTY: Mapping[str, str] = {
    "refiner": "None",
    "hires_checkpoint": "Use same checkpoint",
    "hires_sampler": "Use same sampler",
    "hires_schedule": "Use same scheduler",
}
# Values that are better chosen by a word than given as a number.
WORDS: Mapping[str, tuple[tuple[str, Any], ...]] = {
    "resize_mode": (
        ("Just resize", 0),
        ("Crop and resize", 1),
        ("Resize and fill", 2),
        ("Just resize (latent upscale)", 3),
    ),
    "masked_content": (
        ("fill", 0), ("original", 1), ("latent noise", 2), ("latent nothing", 3),
    ),
    "only_masked": (("Whole picture", False), ("Only masked", True)),
    "mask_invert": (("Inpaint masked", False), ("Inpaint not masked", True)),
}  # fmt: skip
# One widget stands for both directions.
_LABELS: Mapping[str, str] = {"mask_blur_x": "Mask blur"}
_HOT_KEYS = "(Ctrl+Enter generates, Alt+Enter skips, Esc interrupts, Ctrl+↑/↓ weighs a word)"


def make_widget(tab: str, name: str, **layout: Any) -> Component:
    """Return the widget of one parameter; `layout` goes to Gradio (scale, min_width, …)."""
    row = FIELD[name]
    options: dict[str, Any] = {
        "value": default_values(Recommended(), tab)[name],
        "label": _LABELS.get(name, row.label),
        "elem_id": f"{tab}_{row.elem_id}",
        **layout,
    }
    if name in WORDS:
        return gr.Radio(list(WORDS[name]), **options)
    if row.choices:
        return gr.Dropdown(named_choices(name, CHOICES[row.choices]()), **options)
    if row.kind is bool:
        return gr.Checkbox(**options)
    if row.kind is str:
        return _prompt_box(row, options)
    if row.minimum is None or row.maximum is None:
        return gr.Number(precision=0, **options)
    return gr.Slider(row.minimum, row.maximum, step=row.step, **options)


def named_choices(name: str, known: Sequence[str]) -> list[tuple[str, str]]:
    """Return a list's entries as (label, value), with one for an empty name where there is one."""
    empty = [(EMPTY[name], "")] if name in EMPTY else []
    return [*empty, *((one, one) for one in known)]


def _prompt_box(row: Field, options: Mapping[str, Any]) -> gr.Textbox:
    # One row's worth of keys is enough: both boxes listen to the same ones.
    hint = f"\n{_HOT_KEYS}" if row.name == "prompt" else ""
    return gr.Textbox(
        show_label=False,
        placeholder=f"{row.label}: {row.help[0].lower()}{row.help[1:]}{hint}",
        lines=2 if row.only else 3,
        max_lines=20,
        elem_classes=["prompt"],
        **options,
    )
