"""Memory before and while it is used: POST /api/v1/estimate, GET /api/v1/memory/history.

The estimate takes the same payload as txt2img and refuses what that refuses, but loads and queues
nothing.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from sdforge.api.context import ApiContext
from sdforge.api.schemas import ErrorBody, Txt2ImgRequest
from sdforge.api.translate import filled_in, generation_request

_RESPONSES: dict[int | str, dict[str, Any]] = {
    422: {"model": ErrorBody, "description": "A field cannot be used; it is named."},
}


def router(context: ApiContext) -> APIRouter:
    """Return the route and its shorter name."""
    routes = APIRouter(tags=["estimate"])

    @routes.post("/api/v1/estimate", responses=_RESPONSES)
    @routes.post("/api/estimate", responses=_RESPONSES)
    def estimate(payload: Txt2ImgRequest) -> dict[str, Any]:
        """Bytes per phase, whether they are there, how long it takes, and what would fit instead.

        `fits`, `mode`, `phases` (weights_bytes, working_bytes, peak_bytes), `peak_bytes`, `budget`,
        `seconds` (null until a job of this checkpoint was timed), `reasons`, `recommended`,
        `largest`, `alternatives`.
        """
        engine = context.engine
        request = generation_request(
            filled_in(payload), engine.extensions, kind="txt2img", add_input=engine.add_input
        )
        return engine.estimate(request)

    @routes.get("/api/v1/memory/history")
    def history() -> list[dict[str, Any]]:
        """Who held how many bytes: up to 600 samples, one a second, oldest first.

        Samples are taken while a job runs and for ten seconds after each call of this.
        """
        return context.engine.memory_history()

    return routes
