"""The route of ADetailer that its clients ask for names: which detectors there are."""

from __future__ import annotations

from fastapi import APIRouter

from sdforge.api.context import ApiContext


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/adetailer/v1", tags=["lists"])

    @routes.get("/ad_model")
    def ad_model() -> dict[str, list[str]]:
        """Names that `ad_model` takes, of the detectors whose files are there."""
        return {"ad_model": context.library.detectors.names()}

    return routes
