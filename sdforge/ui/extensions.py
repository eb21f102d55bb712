"""Accordions for extensions and boxes for scripts, made from their fields, all closed.

A widget is named `extension.field` among the form's values; scripts have a box to tick as well,
`script.enabled`, since naming one is what switches it on. As in `form.py`, values are plain; only
the functions that build know Gradio.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from sdforge.core.errors import InvalidRequest
from sdforge.core.extension import Extension, typed_value
from sdforge.core.fields import Field
from sdforge.core.registry import Registry
from sdforge.core.script import Script
from sdforge.extensions.values import ENABLED
from sdforge.postprocess.upscalers import UPSCALERS
from sdforge.ui.fields import CHOICES

Extensions = Registry[Extension]
# Lists of fields that name files.
ON_DISK = ("detectors", "checkpoints", "vaes")


def build_accordions(tab: str, extensions: Extensions) -> dict[str, Component]:
    """Lay out the accordions in the current Blocks and return their widgets by name."""
    widgets: dict[str, Component] = {}
    for extension in of_tab(extensions, tab):
        if not extension.fields or isinstance(extension, Script):
            continue
        elem_id = f"{tab}_{extension.name}"
        with gr.Accordion(extension.label, open=False, elem_id=elem_id, elem_classes=["extension"]):
            if extension.help:
                gr.Markdown(extension.help, elem_classes=["extension-help"])
            if extension.tabs:
                widgets |= _tabbed(extension, elem_id)
                continue
            for field in extension.fields:
                name = widget_name(extension, field)
                widgets[name] = _widget(field, f"{elem_id}_{field.name}")
    return widgets


def _tabbed(extension: Extension, elem_id: str) -> dict[str, Component]:
    """Lay out an extension of many fields: those of no tab, then tabs with folds in them."""
    known = {field.name: field for field in extension.fields}
    widgets: dict[str, Component] = {}

    def lay_out(names: Iterable[str]) -> None:
        for name in names:
            made = _widget(known[name], f"{elem_id}_{name}")
            widgets[widget_name(extension, known[name])] = made

    grouped = {
        name for folds in extension.tabs.values() for names in folds.values() for name in names
    }
    lay_out(name for name in known if name not in grouped)
    with gr.Tabs(elem_id=f"{elem_id}_tabs"):
        for title, folds in extension.tabs.items():
            with gr.Tab(title, elem_id=f"{elem_id}_tab_{title}"):
                for fold, names in folds.items():
                    if not fold:
                        lay_out(names)
                        continue
                    with gr.Accordion(fold, open=False):
                        lay_out(names)
    return widgets


def build_scripts(tab: str, extensions: Extensions) -> dict[str, Component]:
    """Lay out a tab's scripts, each a box that opens when it is ticked; return the widgets."""
    widgets: dict[str, Component] = {}
    for script in of_tab(extensions, tab):
        if not isinstance(script, Script):
            continue
        elem_id = f"{tab}_script_{script.name}"
        with gr.Column(elem_id=elem_id, elem_classes=["switched"]):
            widgets[widget_name(script, ENABLED)] = gr.Checkbox(
                label=f"Script: {script.label}",
                elem_id=f"{elem_id}_enabled",
                elem_classes=["switch"],
                container=False,
            )
            with gr.Column(elem_classes=["switched-body"]):
                if script.help:
                    gr.Markdown(script.help, elem_classes=["extension-help"])
                for field in script.fields:
                    made = _widget(field, f"{elem_id}_{field.name}")
                    widgets[widget_name(script, field)] = made
    return widgets


def of_tab(extensions: Extensions, tab: str) -> Extensions:
    """Return the extensions and scripts without those of other tabs."""
    kept: Extensions = Registry(extensions.kind)
    for extension in extensions:
        if tab in extension.kinds:
            kept.add(extension.name, extension, (extension.label,) if extension.label else ())
    return kept


def _widget(field: Field, elem_id: str) -> Component:
    info = field.help or None
    if field.kind is bool:
        return gr.Checkbox(field.default, label=field.label, info=info, elem_id=elem_id)
    if field.options or field.choices:
        return gr.Dropdown(
            list(field.options) or _first_names(field),
            value=field.default,
            label=field.label,
            info=info,
            elem_id=elem_id,
            # What is on disk comes with the load event.
            allow_custom_value=field.choices in ON_DISK,
        )
    if field.kind is str:
        return gr.Textbox(field.default, label=field.label, info=info, elem_id=elem_id)
    if field.minimum is None or field.maximum is None:
        return gr.Number(field.default, label=field.label, info=info, elem_id=elem_id)
    return gr.Slider(
        field.minimum,
        field.maximum,
        value=field.default,
        step=field.step,
        label=field.label,
        info=info,
        elem_id=elem_id,
    )


def _first_names(field: Field) -> list[str]:
    """Return the names of a list that the page offers before anybody looked on disk."""
    named = CHOICES.get(field.choices or "", list)()
    if field.choices == "upscalers":
        return UPSCALERS.names()
    return list(dict.fromkeys([field.default, *named]))


def widgets_of_lists(extensions: Extensions) -> dict[str, Field]:
    """Return the fields by the names of widgets whose lists name what is on disk."""
    return {name: field for name, _, field in _all(extensions) if field.choices in ON_DISK}


def widget_name(extension: Extension, field: Field) -> str:
    """Return the name of a field's widget among the form's values."""
    return f"{extension.name}.{field.name}"


def upscaler_widgets(extensions: Extensions) -> list[str]:
    """Return the names of widgets that choose what enlarges pictures."""
    return [name for name, _, field in _all(extensions) if field.choices == "upscalers"]


def default_values(extensions: Extensions) -> dict[str, Any]:
    """Return the values of all widgets as a new page has them."""
    return {name: field.default for name, _, field in _all(extensions)}


def values_by_extension(
    values: Mapping[str, Any], extensions: Extensions
) -> dict[str, dict[str, Any]]:
    """Return what a filled-in form asks of extensions; those that are off are left out.

    Raises:
        InvalidRequest: a value cannot be used; the field is named as the page labels it.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, extension, field in _all(extensions):
        value = values.get(name, field.default)
        try:
            found.setdefault(extension.name, {})[field.name] = typed_value(field, value)
        except InvalidRequest as error:
            label = f"{extension.label}: {field.label}"
            raise InvalidRequest(label, value, field.allowed()) from error
    for script in (one for one in extensions if isinstance(one, Script)):
        if not found[script.name].pop(ENABLED.name):
            del found[script.name]
    return {name: kept for name, kept in found.items() if extensions.get(name).is_active(kept)}


def form_values(asked: Mapping[str, Mapping[str, Any]], extensions: Extensions) -> dict[str, Any]:
    """Return the values of all widgets for a request; what it does not name is at its default."""
    values = {
        name: asked.get(extension.name, {}).get(field.name, field.default)
        for name, extension, field in _all(extensions)
    }
    for script in (one for one in extensions if isinstance(one, Script)):
        values[widget_name(script, ENABLED)] = script.name in asked
    return values


def stored_values(text: str, extensions: Extensions) -> dict[str, Any]:
    """Return widget values that a browser remembered; what cannot be used is left out."""
    try:
        stored = json.loads(text or "{}")
    except ValueError:
        return {}
    given = stored.get("values") if isinstance(stored, dict) else None
    if not isinstance(given, dict):
        return {}
    values: dict[str, Any] = {}
    for name, _, field in _all(extensions):
        if name in given:
            try:
                values[name] = typed_value(field, given[name])
            except InvalidRequest:
                continue
    return values


def _all(extensions: Extensions) -> Iterator[tuple[str, Extension, Field]]:
    for extension in extensions:
        extra = (ENABLED,) if isinstance(extension, Script) else ()
        for field in (*extra, *extension.fields):
            yield widget_name(extension, field), extension, field
