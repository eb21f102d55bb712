"""A1111's routes that there are not, as in Forge: their 404 says what is missing."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from sdforge.api.schemas import ErrorBody
from sdforge.core.errors import NotFound

MISSING = {
    "interrogate": "describing pictures",
    "create/embedding": "training",
    "create/hypernetwork": "training",
    "train/embedding": "training",
    "train/hypernetwork": "training",
}


def router() -> APIRouter:
    """Return the routes; they read no body, so that any request gets the same clear answer."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["not in this version"])
    for path, feature in MISSING.items():
        routes.add_api_route(
            f"/{path}",
            _refusal(path, feature),
            methods=["POST"],
            summary=path,
            description=f"Not in this version: {feature}.",
            responses={404: {"model": ErrorBody}},
        )
    return routes


def _refusal(path: str, feature: str) -> Callable[[], None]:
    def refuse() -> None:
        raise NotFound(f"/sdapi/v1/{path} is not in this version ({feature})")

    return refuse
