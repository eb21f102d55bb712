"""docs/conformance.md from the rows; `scripts/docs.py` writes it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sdforge.api.sdapi.foreign_options import SECTIONS
from sdforge.api.sdapi.unavailable import MISSING
from sdforge.core.settings import OPTIONS
from sdforge.extensions.catalog import load_extensions
from tests.api.contract.fields import COMMON, HIRES_DISTILLED, IMG2IMG, INCLUDE, TXT2IMG, Row
from tests.api.contract.routes import ERRORS, EXTRAS, INTERROGATE, ROUTES, SCRIPTS, UNIT

_HEAD = """# Conformance with A1111's and Forge's REST API

Written by `scripts/docs.py` from the rows in `tests/api/contract/`; `tests/api/test_contract.py` tries each of them against the
server: that a field left out or null has the default, that every form is taken and echoed, reaches the job, and that wrong values are
refused with 422 in a sentence that names the field. Where an answer differs from both programs on purpose,
[api.md](api.md#where-we-differ-from-a1111) says why. What each field does to the pixels is in [payload-fields.md](payload-fields.md), tried likewise.
"""
_NOT_HERE = "not in this version: 404"
_PAGE_ONLY = ("sampler", "seed", "refiner", "comments", "extra options", "controlnet")


def contract_page() -> str:
    """Return the page."""
    fields_head = (
        "| field | default | taken, beside what the type says | effect |\n|---|---|---|---|"
    )
    missing = {row.path for row in ROUTES if not row.is_here}
    extras = "/sdapi/v1/extra-single-image" in missing
    parts = [
        _HEAD,
        "## Routes\n\n| | route | answers | |\n|---|---|---|---|",
        *(f"| {row.method} | `{row.path}` | {_status(row)} | {row.note} |" for row in ROUTES),
        f"\n## txt2img and img2img\n\n{fields_head}",
        *_fields((*COMMON, HIRES_DISTILLED)),
        f"\n## txt2img alone\n\n{fields_head}",
        *_fields(TXT2IMG),
        f"\n## img2img alone\n\n{fields_head}",
        *_fields((*IMG2IMG, INCLUDE)),
        f"\n## A ControlNet unit\n\n{fields_head}",
        *_fields(UNIT),
        f"\n## extra-single-image, extra-batch-images{_state(extras)}\n\n{fields_head}",
        *_fields(EXTRAS),
        f"\n## interrogate{_state('interrogate' in MISSING)}\n\n{fields_head}",
        *_fields(INTERROGATE),
        "\n## Scripts\n\n| title | arguments and their defaults | |\n|---|---|---|",
        *_scripts(),
        "\n## Errors\n\n| case | status | A1111's words |\n|---|---|---|",
        *(f"| {case} | {route.status} | {words} |" for case, route, words in ERRORS),
        "\n## Options\n\nThose that act are in [settings.md](settings.md), with what they allow; "
        f"{len(OPTIONS)} of them.\nThe following are in the answer with A1111's or Forge's "
        "default, are stored when they are sent, and have no effect:\n",
        "| section | keys |\n|---|---|",
        *(f"| {section} | {', '.join(f'`{key}`' for key in keys)} |"
          for section, keys in SECTIONS.items()),
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _status(row: Any) -> str:
    return str(row.status) if row.is_here else _NOT_HERE


def _state(is_missing: bool) -> str:
    return f"\n\nThese are {_NOT_HERE}." if is_missing else ""


def _fields(rows: Iterable[Row]) -> list[str]:
    return [
        f"| `{row.name}` | {_shown(row.default)} | {_forms(row)} | {_escaped(row.effect)} |"
        for row in rows
    ]


def _forms(row: Row) -> str:
    return ", ".join(
        _shown(sent)
        if type(sent) is type(got) and sent == got
        else f"{_shown(sent)} as {_shown(got)}"
        for sent, got in row.forms
        if got is not None
    )


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if "base64" in text or len(text) > 90:
        text = "a picture" if "base64" in text or " " not in text else text
    return f"`{_escaped(text)}`"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _scripts() -> list[str]:
    known = load_extensions()
    lines = []
    for title, arguments in SCRIPTS:
        shown = ", ".join(map(_shown, arguments))
        if title in known:
            state = "acts"
        else:
            state = (
                "taken; the payload's own fields act" if title in _PAGE_ONLY else "not here: 422"
            )
        lines.append(f"| {title} | {shown} | {state} |")
    return lines
