"""Extensions as A1111's clients know them: scripts with titles and arguments in order."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from sdforge.api.context import ApiContext
from sdforge.core.extension import Extension
from sdforge.core.fields import Field


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["lists"])

    @routes.get("/scripts")
    def scripts() -> dict[str, Any]:
        """Titles of scripts, as `alwayson_scripts` takes them."""
        titles = [_title(extension) for extension in context.engine.extensions]
        # No extension here, but clients look for it among them.
        titles.append("controlnet")
        return {"txt2img": titles, "img2img": titles}

    @routes.get("/script-info")
    def script_info() -> list[dict[str, Any]]:
        """Scripts with their arguments in order."""
        return [
            {
                "name": _title(extension),
                "is_alwayson": True,
                "is_img2img": is_img2img,
                "args": [_argument(field) for field in extension.fields],
            }
            for is_img2img in (False, True)
            for extension in context.engine.extensions
        ]

    return routes


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
