"""The form's values, as a dict by name, and what they mean.

A form value is named like its row in `core.fields`; `seed_extras` (A1111's "Extra" beside the
seed), `styles` and what `passes.py` lists have no row. Nothing here knows Gradio: `fields.py` makes
the widgets, `bindings.py` carries values to and fro.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.core.fields import FIELD, Field, fields_of
from sdforge.core.request import (
    DEFAULT_CFG_SCALE,
    DEFAULT_DISTILLED_CFG_SCALE,
    DEFAULT_SIZE,
    GenerationRequest,
    Recommended,
)
from sdforge.ui import passes
from sdforge.ui.overrides import OVERRIDES, choice_of, read_overrides
from sdforge.ui.passes import TABS, TXT2IMG, Pictures

SEED_EXTRAS = "seed_extras"
# Names of the styles to apply.
STYLES = "styles"
# Rows without an element id have no widget: they are for the API and settings alone.
FORM_FIELDS: Mapping[str, tuple[Field, ...]] = {
    tab: tuple(row for row in fields_of(tab) if row.elem_id) for tab in TABS
}
FORM_NAMES: Mapping[str, tuple[str, ...]] = {
    tab: (*(row.name for row in rows), SEED_EXTRAS, STYLES, OVERRIDES, *passes.EXTRAS[tab])
    for tab, rows in FORM_FIELDS.items()
}
# What a checkpoint may recommend; these follow it until the user changes them.
RECOMMENDED_NAMES = ("width", "height", "steps", "cfg_scale", "distilled_cfg_scale", "sampler")
_VARIATION_NAMES = ("subseed", "subseed_strength", "seed_resize_from_w", "seed_resize_from_h")
# Aspect ratios beside the squares, at the area of the native square.
_ASPECTS = ((16, 9), (9, 16))


def default_values(recommended: Recommended, tab: str = TXT2IMG) -> dict[str, Any]:
    """Return the form's values for a checkpoint when the browser remembers none."""
    values: dict[str, Any] = {row.name: row.default for row in FORM_FIELDS[tab]}
    values.update(passes.default_values(tab))
    values.update(
        width=DEFAULT_SIZE,
        height=DEFAULT_SIZE,
        cfg_scale=DEFAULT_CFG_SCALE,
        distilled_cfg_scale=DEFAULT_DISTILLED_CFG_SCALE,
    )
    for name in RECOMMENDED_NAMES:
        advised = getattr(recommended, name)
        if advised is not None:
            values[name] = advised
    values[SEED_EXTRAS] = False
    values[STYLES] = []
    values[OVERRIDES] = []
    return values


def follow_checkpoint(
    values: Mapping[str, Any], before: Recommended, after: Recommended
) -> dict[str, Any]:
    """Return what changes in the form with the checkpoint: what the user left at the old advice."""
    old, new = default_values(before), default_values(after)
    return {
        name: new[name]
        for name in RECOMMENDED_NAMES
        if values.get(name) == old[name] and old[name] != new[name]
    }


def request_from_values(
    values: Mapping[str, Any],
    extensions: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    tab: str = TXT2IMG,
    pictures: Pictures | None = None,
) -> GenerationRequest:
    """Return the request that a filled-in form means.

    Args:
        values: the form's.
        extensions: what is asked of extensions, by their names.
        tab: whose form it is.
        pictures: what was sent with it.

    Raises:
        InvalidRequest: a value is missing or not of its field's type, or a picture is missing,
            naming the field's label.
    """
    off = passes.switched_off(values, tab)
    chosen = {
        row.name: off[row.name] if row.name in off else read_value(row, values.get(row.name))
        for row in FORM_FIELDS[tab]
    }
    if not values.get(SEED_EXTRAS):
        chosen.update({name: FIELD[name].default for name in _VARIATION_NAMES})
    pictures = pictures or Pictures()
    chosen |= passes.request_parts(values, chosen, tab, pictures)
    # The prompts of a picture's own text hold its styles' already.
    styles = [] if pictures.infotext else style_names(values.get(STYLES))
    return GenerationRequest(
        **chosen,
        styles=tuple(styles),
        extensions=dict(extensions or {}),
        overrides=read_overrides(values.get(OVERRIDES)),
    )


def style_names(value: Any) -> list[str]:
    """Return the names in a multiple choice's value, whatever a browser sent."""
    chosen = value if isinstance(value, list) else []
    return [name for name in chosen if isinstance(name, str)]


def read_value(row: Field, value: Any) -> Any:
    """Return a widget's value as the field's type and within its limits.

    Raises:
        InvalidRequest: it cannot be used; the field is named as the page labels it.
    """
    if row.kind is str and value is None:
        value = ""
    converted = _as_number(row.kind, value) if row.kind in (int, float) else value
    try:
        row.check(converted)
    except InvalidRequest:
        converted = None
    if converted is None:
        raise InvalidRequest(row.label, value, row.allowed())
    return converted


def _read_stored(name: str, value: Any) -> Any:
    return read_value(FIELD[name], value)


def _as_number(kind: type, value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if kind is int and math.isfinite(value) and value == int(value):
        return int(value)
    return float(value) if kind is float else value


def label_errors(error: InvalidRequest) -> tuple[str, str | None]:
    """Return the sentence for the user and the name of the form's field it is about, if any."""
    for row in {row.name: row for tab in TABS for row in FORM_FIELDS[tab]}.values():
        if error.field in (row.api, row.label):
            sentence = error.message
            if sentence.startswith(f"{row.api}: "):
                sentence = f"{row.label}: {sentence.removeprefix(f'{row.api}: ')}"
            elif not sentence.startswith(row.label):
                sentence = f"{row.label}: {sentence}"
            return sentence, row.name
    return error.message, None


def stored_values(text: str, tab: str = TXT2IMG) -> tuple[dict[str, Any], str]:
    """Return values and checkpoint that a browser remembered; what cannot be used is left out."""
    try:
        stored = json.loads(text or "{}")
    except ValueError:
        return {}, ""
    if not isinstance(stored, dict) or not isinstance(stored.get("values"), dict):
        return {}, ""
    values: dict[str, Any] = {}
    for name, value in stored["values"].items():
        if name == SEED_EXTRAS:
            values[name] = bool(value)
        elif name == STYLES:
            values[name] = style_names(value)
        elif name == OVERRIDES:
            values[name] = choice_of(read_overrides(value)).value
        elif name in FORM_NAMES[tab]:
            try:
                is_extra = name in passes.EXTRAS[tab]
                values[name] = (passes.read_extra if is_extra else _read_stored)(name, value)
            except InvalidRequest:
                continue
    checkpoint = stored.get("checkpoint")
    return values, checkpoint if isinstance(checkpoint, str) else ""


def size_presets(recommended: Recommended) -> list[tuple[int, int]]:
    """Return sizes in pixels that suit a checkpoint: around its native square, and 16:9, 9:16."""
    native = min(recommended.width or DEFAULT_SIZE, recommended.height or DEFAULT_SIZE)
    # Up to SD 2's size a model still draws well beyond its square; SDXL's and later ones' is meant.
    factors = (1.0, 1.5, 2.0) if native <= DEFAULT_SIZE else (0.75, 1.0, 1.25)
    multiple = 64 if native >= DEFAULT_SIZE else 8
    sizes = [(side, side) for side in (_nearest(native * factor, multiple) for factor in factors)]
    for across, down in _ASPECTS:
        ratio = math.sqrt(across / down)
        sizes.append((_nearest(native * ratio, multiple), _nearest(native / ratio, multiple)))
    return sizes


def _nearest(length: float, multiple: int) -> int:
    return max(multiple, round(length / multiple) * multiple)
