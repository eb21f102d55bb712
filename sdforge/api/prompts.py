"""/api/v1/tokens and /api/v1/styles: what a page needs beside its prompt boxes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from sdforge.api.context import ApiContext
from sdforge.api.schemas import StyleRequest, TokensRequest


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    engine = context.engine
    routes = APIRouter(prefix="/api/v1", tags=["prompts"])

    @routes.post("/tokens")
    def count_tokens(request: TokensRequest) -> dict[str, Any]:
        """Tokens of the longest text that each prompt will be, and the room of its chunks."""
        texts = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
        styles = [name for name in request.styles if isinstance(name, str)]
        counts = {}
        for name, text in texts.items():
            tokens, room = engine.count_tokens(
                text, steps=request.steps, styles=styles, is_negative=name == "negative_prompt"
            )
            counts[name] = {"count": tokens, "max": room}
        return counts

    @routes.post("/styles")
    def save_style(request: StyleRequest) -> dict[str, Any]:
        """Add a style, or change the one of this name; /sdapi/v1/prompt-styles lists them."""
        engine.styles.save(request.name, request.prompt, request.negative_prompt)
        return {}

    @routes.delete("/styles/{name:path}")
    def delete_style(name: str) -> dict[str, Any]:
        """Take a style out of its file."""
        engine.styles.delete(name)
        return {}

    return routes
