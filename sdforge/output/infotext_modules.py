"""Forge's keys `Module 1`, `Module 2`…: the VAE and text encoders given beside a checkpoint.

A second pass that has others says so in `Hires Module 1`…
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.core.settings import Settings

SETTING = "forge_additional_modules"
_KEY = re.compile(r"Module (\d{1,3})")
_HIRES_KEY = re.compile(r"Hires Module (\d{1,3})")
# Forge's words for no files, and for those of the first pass.
_NONE, SAME_CHOICES = "Built-in", "Use same choices"
_NO_FILES = frozenset((_NONE, "Automatic", "None", ""))
# What a model file's name ends in; other dots belong to the name.
_ENDING = re.compile(r"\.(safetensors|sft|gguf|ckpt|pt|pth|bin)$", re.IGNORECASE)


def module_parameters(settings: Settings) -> dict[str, str]:
    """Return the keys: names of the files without folder and ending, as Forge writes them."""
    names = map(_stem, settings.forge_additional_modules)
    return {f"Module {number}": name for number, name in enumerate(names, start=1)}


def module_overrides(fields: Mapping[str, str], current: Settings | None) -> dict[str, Any]:
    """Return the setting that an infotext's modules ask for, none where it is so already.

    With `current` a text without modules asks for none: the picture was made without.
    """
    wanted = [name for name in _numbered(_KEY, fields) if name != _NONE]
    if current is None:
        return {SETTING: wanted} if wanted else {}
    return {} if _stems(wanted) == _stems(current.forge_additional_modules) else {SETTING: wanted}


def hires_module_parameters(modules: Sequence[str] | None) -> dict[str, str]:
    """Return the keys of a second pass's modules; of None, which are the first's, nothing."""
    if modules is None:
        return {}
    names = [_stem(name) for name in modules] or [_NONE]
    return {f"Hires Module {number}": name for number, name in enumerate(names, start=1)}


def hires_module_values(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the request's value that an infotext's keys stand for, nothing without any."""
    names = _numbered(_HIRES_KEY, fields)
    return {"hires_modules": hires_modules(names, "Hires Module")} if names else {}


def hires_modules(sent: Any, field: str) -> tuple[str, ...] | None:
    """Return the files that a list of Forge's names for the second pass; None for the first's.

    Raises:
        InvalidRequest: it is no list of names.
    """
    if sent is None:
        return None
    if not isinstance(sent, (list, tuple)) or not all(isinstance(name, str) for name in sent):
        raise InvalidRequest(field, sent, f'a list of file names, or ["{SAME_CHOICES}"]')
    if SAME_CHOICES in sent:
        return None
    return tuple(name for name in sent if name not in _NO_FILES)


def _numbered(pattern: re.Pattern[str], fields: Mapping[str, str]) -> list[str]:
    """Return the values of numbered keys in the order of their numbers."""
    found = [
        (int(match[1]), value.strip())
        for key, value in fields.items()
        if (match := pattern.fullmatch(key)) and value.strip()
    ]
    return [name for _, name in sorted(found)]


def _stem(name: str) -> str:
    return _ENDING.sub("", name.strip().replace("\\", "/").rpartition("/")[2])


def _stems(names: Sequence[str]) -> list[str]:
    return [_stem(name).casefold() for name in names]
