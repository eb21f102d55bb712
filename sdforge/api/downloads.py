"""/api/v1/downloads: model files from a hub, where the owner of the server allows it."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field

from sdforge.api.context import ApiContext
from sdforge.api.schemas import ErrorBody, LenientModel, LenientStr
from sdforge.core.errors import NotAvailable
from sdforge.engine.downloads import KINDS, Download

_RESPONSES: dict[int | str, dict[str, Any]] = {
    422: {
        "model": ErrorBody,
        "description": "No such file can be named, it is there already, or the server was started "
        "without --hub-downloads.",
    },
    429: {"model": ErrorBody, "description": "Too many downloads wait."},
}


class DownloadRequest(LenientModel):
    """What to fetch."""

    file: LenientStr = Field(description="hf:owner/name[@revision]/path, or its address.")
    kind: Literal["checkpoint", "vae", "text_encoder", "lora", "embedding", "controlnet"] = Field(
        default="checkpoint", description="Decides the folder it is put into."
    )


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1/downloads", tags=["models"])
    downloads = context.downloads

    def check_open() -> None:
        if not downloads.hub.is_open:
            raise NotAvailable("this server fetches no files: start it with --hub-downloads")

    @routes.get("")
    def list_downloads() -> dict[str, Any]:
        """Say whether files may be fetched, from where, and what was fetched since the start."""
        rows = [_row(found) for found in downloads.all()]
        hub = downloads.hub
        return {"enabled": hub.is_open, "hub": hub.host, "kinds": KINDS, "downloads": rows}

    @routes.post("", status_code=202, responses=_RESPONSES)
    def add_download(payload: DownloadRequest) -> dict[str, Any]:
        """Queue a file; answers at once, `GET /api/v1/downloads` tells how far it is."""
        check_open()
        return _row(downloads.add(payload.file, payload.kind))

    @routes.delete("/{number}", responses={404: {"model": ErrorBody}})
    def cancel_download(number: int) -> dict[str, Any]:
        """Stop a download, keeping what has arrived, or take one that is over off the list."""
        check_open()
        return _row(downloads.cancel(number))

    return routes


def _row(found: Download) -> dict[str, Any]:
    return {
        "id": found.id,
        "file": str(found.file),
        "name": found.file.name,
        "kind": found.kind,
        "state": found.state,
        "done_bytes": found.done_bytes,
        "total_bytes": found.total_bytes,
        "error": found.error,
    }
