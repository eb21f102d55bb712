"""Forge's keys `Module 1`, `Module 2`…: the VAE and text encoders given beside a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sdforge.core.settings import Settings

SETTING = "forge_additional_modules"
_KEY = re.compile(r"Module (\d{1,3})")
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
    numbered = [
        (int(match[1]), value.strip())
        for key, value in fields.items()
        if (match := _KEY.fullmatch(key)) and value.strip()
    ]
    wanted = [name for _, name in sorted(numbered) if name != "Built-in"]
    if current is None:
        return {SETTING: wanted} if wanted else {}
    return {} if _stems(wanted) == _stems(current.forge_additional_modules) else {SETTING: wanted}


def _stem(name: str) -> str:
    return _ENDING.sub("", name.strip().replace("\\", "/").rpartition("/")[2])


def _stems(names: Sequence[str]) -> list[str]:
    return [_stem(name).casefold() for name in names]
