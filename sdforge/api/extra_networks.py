"""/sd_extra_networks: thumbnails and metadata of model files, as A1111's cards ask for them.

A thumbnail is asked for by the path of its file. Only pictures that lie beside a model file which
the server lists are given out, whatever else the path names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse

from sdforge.api.context import ApiContext
from sdforge.core.errors import NotFound

_KINDS = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
}


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/sd_extra_networks", tags=["page"])

    @routes.get("/thumb", response_class=FileResponse)
    def thumb(filename: str = "") -> FileResponse:
        """The picture that lies beside a model file: `name.png` or `name.preview.png`."""
        for found in _pictures(context):
            if str(found) == filename:
                return FileResponse(found, media_type=_KINDS[found.suffix.lower()])
        raise NotFound("no picture of a model file has this name")

    @routes.get("/cover-images")
    def cover_images(page: str = "", item: str = "") -> dict[str, Any]:
        """Names of the pictures that lie beside a model file."""
        models = [path for path in _models(context, page) if item in ("", path.stem, path.name)]
        return {"images": [str(found) for path in models for found in _beside(path)]}

    @routes.get("/metadata")
    def metadata(page: str = "", item: str = "") -> dict[str, Any]:
        """What a LoRA file says of itself, as JSON text; empty where it says nothing."""
        if page.casefold() in ("lora", ""):
            for info in context.library.loras.loras():
                if info.name == item:
                    return {"metadata": json.dumps(info.readable_metadata(), indent=4)}
        return {}

    return routes


def _models(context: ApiContext, page: str = "") -> Iterator[Path]:
    library, page = context.library, page.casefold()
    if page in ("", "checkpoints"):
        yield from (info.path for info in library.checkpoints())
    if page in ("", "lora"):
        yield from (info.path for info in library.loras.loras())
    if page in ("", "textual inversion", "textual_inversion"):
        yield from (info.path for info in library.embeddings.usable())


def _pictures(context: ApiContext) -> Iterator[Path]:
    return (found for path in _models(context) for found in _beside(path))


def _beside(path: Path) -> Iterator[Path]:
    for middle in ("", ".preview"):
        for suffix in _KINDS:
            candidate = path.with_name(f"{path.stem}{middle}{suffix}")
            if candidate.is_file():
                yield candidate
