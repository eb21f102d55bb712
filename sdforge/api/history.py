"""/api/v1/history: the pictures on disk, found by words, marked, thrown away and brought back.

Clients name pictures by number; no path of theirs reaches the disk.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from sdforge.api.context import ApiContext
from sdforge.api.jobs import describe_job
from sdforge.core.errors import NotFound
from sdforge.engine.history import THUMBNAIL_SIZES, Moved
from sdforge.engine.history_import import ImportStatus
from sdforge.engine.history_store import MAX_ROWS, Picture, Search
from sdforge.output.infotext import parse_infotext, request_from_infotext

_MOST_NUMBERS = 10_000
_FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}


class NumbersRequest(BaseModel):
    """Pictures by their numbers."""

    numbers: list[int] = Field(max_length=_MOST_NUMBERS)


class SearchQuery(BaseModel):
    """What to look for."""

    q: str = Field(default="", max_length=1000, description="Words.")
    favourite: bool | None = Field(default=None, description="Only marked ones, or only others.")
    trash: bool = Field(default=False, description="Look in the trash instead.")
    kind: str = Field(default="", max_length=40, description="txt2img, img2img, imported, …")
    model: str = Field(default="", max_length=400, description="Name of the checkpoint, whole.")
    job: str = Field(default="", max_length=200, description="Id of a job.")
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    after: float | None = Field(default=None, description="Not older than this; epoch seconds.")
    before: float | None = Field(default=None, description="Older than this; epoch seconds.")
    offset: int = Field(default=0, ge=0, le=2**53)
    limit: int = Field(default=100, ge=1, le=MAX_ROWS)

    def to_search(self) -> Search:
        """Return it by the engine's names."""
        return Search(
            words=self.q, is_favourite=self.favourite, in_trash=self.trash, kind=self.kind,
            model=self.model, job=self.job, seed=self.seed, after=self.after, before=self.before,
            offset=self.offset, limit=self.limit,
        )  # fmt: skip


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1/history", tags=["history"])
    history = context.engine.history

    @routes.get("")
    def search(request: Request, search: Annotated[SearchQuery, Query()]) -> dict[str, Any]:
        """Pictures, newest first, with how many there are (counted up to 10000).

        `q` looks in prompts, model, infotext and file name: all words must be there, as beginnings
        of words; "several in quotes" side by side; -words not at all.
        """
        total, found = history.search(search.to_search())
        return {"total": total, "pictures": [describe(request, picture) for picture in found],
                "counts": history.counts()}  # fmt: skip

    @routes.post("/trash")
    def trash(body: NumbersRequest) -> dict[str, Any]:
        """Move pictures to the trash; `restore` brings them back."""
        return _described(history.trash(body.numbers))

    @routes.post("/restore")
    def restore(body: NumbersRequest) -> dict[str, Any]:
        """Bring pictures back from the trash."""
        return _described(history.restore(body.numbers))

    @routes.post("/empty-trash")
    def empty_trash(older_than_days: Annotated[float, Query(ge=0)] = 0) -> dict[str, int]:
        """Delete what is in the trash for good, or what has been there for so many days."""
        return {"deleted": history.empty_trash(older_than_days)}

    @routes.post("/trash-copies")
    def trash_copies() -> dict[str, Any]:
        """Move all but the oldest of files with equal content to the trash."""
        return _described(history.trash_copies())

    @routes.post("/import", status_code=202)
    def start_import() -> dict[str, Any]:
        """Look through the output folders for pictures that are not known yet."""
        return asdict(history.start_import())

    @routes.get("/import")
    def import_status() -> ImportStatus:
        """How far the import is, or how the last one ended."""
        return history.import_status()

    @routes.post("/find")
    async def find(request: Request) -> dict[str, Any]:
        """Pictures whose file is the one sent as the body."""
        digest = hashlib.sha256(await request.body()).hexdigest()
        total, found = history.search(Search(sha256=digest))
        return {"total": total, "pictures": [describe(request, picture) for picture in found]}

    _add_single(routes, context)
    return routes


def _add_single(routes: APIRouter, context: ApiContext) -> None:
    """Add the routes of one picture."""
    engine = context.engine
    history = engine.history

    @routes.get("/{number}")
    def get(request: Request, number: int) -> dict[str, Any]:
        """One picture, with the request that drew it where that is known."""
        picture = history.get(number)
        return describe(request, picture) | {
            "infotext": picture.infotext,
            "request": _request_of(context, picture),
        }

    @routes.get("/{number}/image", response_class=Response)
    def image(number: int) -> Response:
        """The file."""
        data, media_type = history.data(number)
        return Response(data, media_type=media_type, headers=_FOREVER)

    @routes.get("/{number}/thumbnail", response_class=Response)
    def thumbnail(
        number: int, size: Annotated[int, Query(ge=THUMBNAIL_SIZES[0], le=THUMBNAIL_SIZES[1])] = 256
    ) -> Response:
        """The picture as WebP of at most `size` pixels along each side."""
        return Response(history.thumbnail(number, size), media_type="image/webp", headers=_FOREVER)

    @routes.put("/{number}/favourite")
    def mark(request: Request, number: int) -> dict[str, Any]:
        """Mark a picture."""
        return describe(request, history.set_favourite(number, True))

    @routes.delete("/{number}/favourite")
    def unmark(request: Request, number: int) -> dict[str, Any]:
        """Take the mark away."""
        return describe(request, history.set_favourite(number, False))

    @routes.post("/{number}/again", status_code=202)
    def again(request: Request, number: int) -> dict[str, Any]:
        """Queue the job that drew a picture again; of an imported one, what its infotext says."""
        picture = history.get(number)
        try:
            job = engine.retry(picture.job or "")
        except NotFound:
            wanted = request_from_infotext(parse_infotext(picture.infotext))
            job = engine.submit(wanted, save_images=True)
        root = request.scope.get("root_path", "")
        return describe_job(job, engine.queue_position(job.id), root)


def describe(request: Request, picture: Picture) -> dict[str, Any]:
    """Return a picture as JSON types; where it lies on disk is not told."""
    values = asdict(picture)
    for name in ("path", "trash_path", "infotext"):
        values.pop(name)
    url = f"{request.scope.get('root_path', '')}/api/v1/history/{picture.number}"
    name = picture.path.replace("\\", "/").rpartition("/")[2]
    return values | {"name": name, "url": f"{url}/image", "thumbnail": f"{url}/thumbnail"}


def _request_of(context: ApiContext, picture: Picture) -> dict[str, Any] | None:
    if picture.job is None:
        return None
    try:
        return context.engine.get(picture.job).request.to_json()
    except NotFound:
        return None


def _described(moved: Moved) -> dict[str, Any]:
    return {"numbers": list(moved.numbers), "failed": moved.failed}
