"""Extensions as A1111's clients know them: scripts with titles and arguments in order."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from sdforge.api.context import ApiContext
from sdforge.core.extension import Extension
from sdforge.core.fields import Field
from sdforge.core.script import Script
from sdforge.sweeps.scripts import SWEEP_SCRIPTS, arguments_info


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["lists"])

    @routes.get("/scripts")
    def scripts() -> dict[str, Any]:
        """Titles of scripts, as `alwayson_scripts` and `script_name` take them."""
        # These are no extensions here, but clients look for them among them.
        return {
            kind: [
                *map(_title, _of_kind(context, kind)),
                *(script.title.lower() for script in SWEEP_SCRIPTS),
                "controlnet",
                "imagestitch integrated",
            ]
            for kind in ("txt2img", "img2img")
        }

    @routes.get("/script-info")
    def script_info() -> list[dict[str, Any]]:
        """Scripts with their arguments in order."""
        return [
            one
            for kind in ("txt2img", "img2img")
            for one in (*_extensions_info(context, kind), *_sweeps_info(context, kind))
        ]

    return routes


def _extensions_info(context: ApiContext, kind: str) -> list[dict[str, Any]]:
    return [
        {
            "name": _title(extension),
            "is_alwayson": not isinstance(extension, Script),
            "is_img2img": kind == "img2img",
            "args": [_argument(field) for field in extension.fields],
        }
        for extension in _of_kind(context, kind)
    ]


def _sweeps_info(context: ApiContext, kind: str) -> list[dict[str, Any]]:
    return [
        {
            "name": script.title.lower(),
            "is_alwayson": False,
            "is_img2img": kind == "img2img",
            "args": arguments_info(script, kind, context.sweeps.catalog),
        }
        for script in SWEEP_SCRIPTS
    ]


def _of_kind(context: ApiContext, kind: str) -> list[Extension]:
    return [extension for extension in context.engine.extensions if kind in extension.kinds]


def _title(extension: Extension) -> str:
    """Return what A1111 would call it: a lower-case title, the one its own clients know."""
    return (extension.aliases[0] if extension.aliases else extension.label).lower()


def _argument(field: Field) -> dict[str, Any]:
    return {
        "label": field.label,
        "value": field.default,
        "minimum": field.minimum,
        "maximum": field.maximum,
        "step": field.step,
        "choices": list(field.options) or None,
    }
