"""/api/v1/inputs: pictures that a client sends ahead of the jobs that need them.

They are named by their content, so sending one twice stores it once. What jobs carry in base64
(`init_images`, `mask`) needs none of this; the page sends its pictures so.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from sdforge.api.context import ApiContext
from sdforge.core.inputs import InputImage

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
    (b"BM", "image/bmp"),
)


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["pictures"])

    @routes.post("/inputs")
    async def put_input(request: Request) -> dict[str, Any]:
        """Store a picture, sent as the body, until jobs need it; returns its name and size."""
        data = await request.body()
        stored = await run_in_threadpool(context.engine.add_input, data, "picture")
        return stored.to_json()

    @routes.get("/inputs/{sha256}", response_class=Response)
    def get_input(sha256: str) -> Response:
        """A stored picture as it was sent; 404 when it has left."""
        data = context.engine.inputs.read(InputImage(sha256, 0, 0))
        kinds = (kind for signature, kind in _SIGNATURES if data.startswith(signature))
        headers = {
            "Cache-Control": "private, max-age=86400, immutable",
            "X-Content-Type-Options": "nosniff",
        }
        return Response(data, media_type=next(kinds, "image/tiff"), headers=headers)

    return routes
