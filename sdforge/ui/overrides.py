"""The list "Override settings": what a pasted picture was made with and the settings say otherwise.

As in A1111, each entry holds for the jobs of its tab until it is taken out of the list. An entry's
value is a JSON pair of the setting's key and its value, so that a browser can keep it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.core.settings import OPTIONS
from sdforge.ui.checkpoints import Choice

OVERRIDES = "override_settings"
# Switching checkpoints takes a while, so the page says which one made a picture and leaves it.
_LEFT_ALONE = ("sd_model_checkpoint",)


def choice_of(overrides: Mapping[str, Any]) -> Choice:
    """Return the list with all of some settings chosen; those that jobs may not change are not."""
    kept = {
        key: value
        for key, value in overrides.items()
        if key in OPTIONS and not OPTIONS[key].locked and key not in _LEFT_ALONE
    }
    options = tuple((_label(key, value), json.dumps([key, value])) for key, value in kept.items())
    return Choice(options, [value for _, value in options])


def read_overrides(value: Any) -> dict[str, Any]:
    """Return the settings of a list's chosen entries; what is no entry of ours is left out."""
    found: dict[str, Any] = {}
    for entry in value if isinstance(value, list) else []:
        try:
            key, wanted = json.loads(entry)
            found[key] = OPTIONS[key].coerce(wanted)
        except (ValueError, TypeError, KeyError, InvalidRequest):
            continue
    return found


def _label(key: str, value: Any) -> str:
    option = OPTIONS[key]
    shown = str(value) if not isinstance(value, float) else f"{value:g}"
    return f"{option.infotext or option.label}: {shown}"
