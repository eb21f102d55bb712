"""Sweeps as A1111's selectable scripts: titles, arguments in order, and what they ask for.

Clients send arguments by position, of this or an older version, in whatever types their language
makes of them; what is missing or null has the page's default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.core.extension import typed_value
from sdforge.core.fields import Field
from sdforge.core.request import GenerationRequest
from sdforge.sweeps import prompt_lines, prompt_matrix
from sdforge.sweeps.axis import Catalog
from sdforge.sweeps.axis_table import axes
from sdforge.sweeps.request import MAX_MARGIN, AskedAxis, Options, SweepRequest

XYZ_TITLE = "X/Y/Z plot"
_LETTERS = "xyz"
# Older versions of A1111 end here; with one value more, that one is csv_mode.
_OLD_COUNT = 14
_CSV_MODE = "csv_mode"

Values = Mapping[str, Any]
Make = Callable[[GenerationRequest, Values, Catalog, int], SweepRequest]


def _row(name: str, kind: type, default: Any, label: str, **more: Any) -> Field:
    return Field(name=name, kind=kind, default=default, label=label, api=name, **more)


_XYZ_FLAGS: tuple[Field, ...] = (
    _row("draw_legend", bool, True, "Draw legend"),
    _row("include_lone_images", bool, False, "Include Sub Images"),
    _row("include_sub_grids", bool, False, "Include Sub Grids"),
    _row("no_fixed_seeds", bool, False, "Keep -1 for seeds"),
    _row("vary_seeds_x", bool, False, "Vary seeds for X"),
    _row("vary_seeds_y", bool, False, "Vary seeds for Y"),
    _row("vary_seeds_z", bool, False, "Vary seeds for Z"),
    _row(
        "margin_size", int, 0, "Grid margins (px)",
        minimum=0, maximum=MAX_MARGIN, step=2, lowest=0, highest=MAX_MARGIN,
    ),
    _row(_CSV_MODE, bool, False, "Use text inputs instead of dropdowns"),
)  # fmt: skip


@dataclass(frozen=True)
class SweepScript:
    """A selectable script that is a sweep; `fields` are its arguments in order."""

    title: str
    fields: tuple[Field, ...]
    make: Make

    def values(self, arguments: Any) -> dict[str, Any]:
        """Return a client's arguments by name, as they came; missing ones are left out.

        Raises:
            InvalidRequest: they are neither a list nor an object.
        """
        if isinstance(arguments, list) and len(arguments) == 1:
            # Forge's clients send names in a list of one.
            arguments = arguments[0] if isinstance(arguments[0], Mapping) else arguments
        if isinstance(arguments, Mapping):
            known = {field.name for field in self.fields}
            for name in arguments:
                if name not in known:
                    raise InvalidRequest("script_args", name, f"one of {', '.join(known)}")
            return dict(arguments)
        if not isinstance(arguments, (list, tuple)):
            raise InvalidRequest("script_args", arguments, "a list of arguments in order")
        names = [field.name for field in self.fields]
        if self.title == XYZ_TITLE and len(arguments) in (_OLD_COUNT, _OLD_COUNT + 1):
            names = [name for name in names if not name.startswith("vary_seeds")]
        return dict(zip(names, arguments, strict=False))


def find_script(name: object) -> SweepScript | None:
    """Return the script of a title, whose case does not matter, if it is one of these."""
    if not isinstance(name, str):
        return None
    folded = name.strip().casefold()
    return next((one for one in SWEEP_SCRIPTS if one.title.casefold() == folded), None)


def sweep_request(
    script: SweepScript,
    arguments: Any,
    base: GenerationRequest,
    catalog: Catalog,
    *,
    limit: int,
) -> SweepRequest:
    """Return what a client asks of a script.

    Args:
        script: which one.
        arguments: by position, or by name.
        base: the request beside them.
        catalog: what there is to choose from.
        limit: most cells that there may be.

    Raises:
        InvalidRequest: an argument cannot be used; it is named.
    """
    return script.make(base, script.values(arguments), catalog, limit)


def arguments_info(script: SweepScript, kind: str, catalog: Catalog) -> list[dict[str, Any]]:
    """Return a script's arguments as /sdapi/v1/script-info lists them."""
    labels = [axis.label for axis in axes(kind, catalog)]
    return [
        {
            "label": field.label,
            "value": field.default,
            "minimum": field.minimum,
            "maximum": field.maximum,
            "step": field.step,
            "choices": labels if field.name.endswith("_type") and field.kind is object else (
                list(field.options) or None
            ),
        }
        for field in script.fields
    ]  # fmt: skip


def _xyz_fields() -> tuple[Field, ...]:
    rows = []
    for letter in _LETTERS:
        upper = letter.upper()
        rows += [
            # Seed is what A1111's page begins with along X.
            _row(f"{letter}_type", object, int(letter == "x"), f"{upper} type"),
            _row(f"{letter}_values", str, "", f"{upper} values"),
            _row(f"{letter}_values_dropdown", list, None, f"{upper} values"),
        ]
    return (*rows, *_XYZ_FLAGS)


def _xyz(base: GenerationRequest, given: Values, catalog: Catalog, limit: int) -> SweepRequest:
    flags = {field.name: _typed(field, given.get(field.name)) for field in _XYZ_FLAGS}
    asked = []
    for letter in _LETTERS:
        typed, picked = given.get(f"{letter}_values"), given.get(f"{letter}_values_dropdown")
        axis = given.get(f"{letter}_type")
        if axis is None and letter == "x" and "x_type" not in given:
            axis = 1
        asked.append(
            AskedAxis(
                axis=_axis_name(axis, f"{letter}_type"),
                values="" if typed is None else str(typed),
                picked=() if flags[_CSV_MODE] else _picked(picked, f"{letter}_values_dropdown"),
            )
        )
    options = Options(
        draw_legend=flags["draw_legend"],
        include_lone_images=flags["include_lone_images"],
        include_sub_grids=flags["include_sub_grids"],
        keep_random=flags["no_fixed_seeds"],
        vary_seeds=tuple(n for n, letter in enumerate(_LETTERS) if flags[f"vary_seeds_{letter}"]),
        margin_px=flags["margin_size"],
    )
    return SweepRequest(base=base, axes=asked, options=options, title=XYZ_TITLE)


def _axis_name(value: Any, field: str) -> str | int | None:
    if value is None or (isinstance(value, (str, int)) and not isinstance(value, bool)):
        return value
    if isinstance(value, float) and value == int(value):
        return int(value)
    raise InvalidRequest(field, value, "a label of an axis, or its position in the list")


def _picked(value: Any, field: str) -> tuple[str, ...]:
    """Return values chosen from a list; older clients send "" for none."""
    if not value:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(one, (str, int, float)) for one in value
    ):
        raise InvalidRequest(field, value, "a list of values")
    return tuple(str(one) for one in value)


def _typed(field: Field, value: Any) -> Any:
    if value is None:
        return field.default
    # "True" and "False" as text come from clients in Python.
    return typed_value(field, value)


_MATRIX_FIELDS: tuple[Field, ...] = (
    _row("put_at_start", bool, False, "Put variable parts at start of prompt"),
    _row("different_seeds", bool, False, "Use different seed for each picture"),
    _row("prompt_type", str, "positive", "Select prompt", options=prompt_matrix.PROMPTS),
    _row(
        "variations_delimiter", str, "comma", "Select joining char",
        options=tuple(prompt_matrix.DELIMITERS),
    ),
    _row(
        "margin_size", int, 0, "Grid margins (px)",
        minimum=0, maximum=MAX_MARGIN, step=2, lowest=0, highest=MAX_MARGIN,
    ),
)  # fmt: skip
_LINES_FIELDS: tuple[Field, ...] = (
    _row("checkbox_iterate", bool, False, "Iterate seed every line"),
    _row("checkbox_iterate_batch", bool, False, "Use same random seed for all lines"),
    _row("prompt_position", str, "start", "Insert prompts at the", options=prompt_lines.POSITIONS),
    _row("prompt_txt", str, "", "List of prompt inputs"),
    _row(
        "make_combined", bool, False,
        "Make a combined image containing all outputs (if more than one)",
    ),
)  # fmt: skip


def _matrix(base: GenerationRequest, given: Values, catalog: Catalog, limit: int) -> SweepRequest:
    at_start, different, varied, delimiter, margin = (
        _typed(field, given.get(field.name)) for field in _MATRIX_FIELDS
    )
    return prompt_matrix.prompt_matrix(
        base,
        at_start=at_start,
        different_seeds=different,
        varied=varied,
        delimiter=delimiter,
        margin_px=margin,
        limit=limit,
    )


def _lines(base: GenerationRequest, given: Values, catalog: Catalog, limit: int) -> SweepRequest:
    iterate, same, position, text, combined = (
        _typed(field, given.get(field.name)) for field in _LINES_FIELDS
    )
    return prompt_lines.prompt_lines(
        base,
        text,
        find_checkpoint=catalog.checkpoint,
        iterate_seed=iterate,
        same_seed=same,
        position=position,
        combined=combined,
        limit=limit,
    )


SWEEP_SCRIPTS: tuple[SweepScript, ...] = (
    SweepScript(prompt_matrix.TITLE, _MATRIX_FIELDS, _matrix),
    SweepScript(prompt_lines.TITLE, _LINES_FIELDS, _lines),
    SweepScript(XYZ_TITLE, _xyz_fields(), _xyz),
)
