"""GET /api/v1/settings: the options with all that a form needs to show and check them.

They are changed by POST /sdapi/v1/options. Reading writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter

from sdforge.api.context import ApiContext
from sdforge.api.sdapi.options import current_options
from sdforge.core.localization import AUTOMATIC, NONE, Localizations
from sdforge.core.option import Option
from sdforge.core.setting_sections import sections
from sdforge.core.settings import OPTIONS
from sdforge.postprocess.upscalers import picture_upscaler_names


def router(context: ApiContext) -> APIRouter:
    """Return the route."""
    routes = APIRouter(prefix="/api/v1", tags=["options"])

    @routes.get("/settings")
    def settings_table() -> dict[str, Any]:
        """All settings by section: type, default, limits, choices, value, whether they are locked.

        `sections` are {group, id, title} in order, `settings` one row each with its `section`.
        """
        values = current_options(context)
        lists = _lists(context)
        found = sections(option.section for option in OPTIONS.values())
        return {
            "sections": [
                {"group": group, "id": name, "title": title} for group, name, title in found
            ],
            "settings": [
                _row(option, values[option.key], lists.get(option.key))
                for option in OPTIONS.values()
            ],
        }

    return routes


def _lists(context: ApiContext) -> Mapping[str, Callable[[], list[str]]]:
    """Return what offers names for settings that take one."""
    library, folder = context.library, context.paths.localizations
    return {
        "sd_model_checkpoint": lambda: [
            row.title for row in library.checkpoints() if not row.error
        ],
        "sd_vae": lambda: ["Automatic", "None", *(row.name for row in library.vaes())],
        "forge_additional_modules": lambda: [row.name for row in library.modules()],
        "localization": lambda: [AUTOMATIC, NONE, *Localizations(folder).names()],
        "upscaler_for_img2img": lambda: picture_upscaler_names(library.upscalers),
        "quicksettings_list": lambda: [row.key for row in OPTIONS.values() if not row.locked],
    }


def _row(option: Option, value: Any, names: Callable[[], list[str]] | None) -> dict[str, Any]:
    choices = list(option.choices) if option.choices is not None else names() if names else None
    return {
        "key": option.key,
        "section": option.section,
        "label": option.label,
        "kind": option.kind.__name__,
        "default": option.default,
        "value": value,
        "minimum": option.minimum,
        "maximum": option.maximum,
        "choices": choices,
        "locked": option.locked,
        "allowed": option.allowed(),
    }
