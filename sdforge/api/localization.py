"""GET /api/v1/localization: the page's texts in another language."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from sdforge.api.context import ApiContext
from sdforge.core.localization import Localizations


def router(context: ApiContext) -> APIRouter:
    """Return the route."""
    routes = APIRouter(prefix="/api/v1", tags=["page"])
    files = Localizations(context.paths.localizations)

    @routes.get("/localization")
    def localization(languages: Annotated[str, Query(max_length=400)] = "") -> dict[str, Any]:
        """{name, texts} by the setting `localization`; `languages` are the browser's, in order.

        `texts` maps English to the other language; both are empty for English.
        """
        wanted = context.engine.settings.current.localization
        name, texts = files.choose(wanted, languages.split(","))
        return {"name": name, "texts": texts}

    return routes
