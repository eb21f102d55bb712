"""/api/v1/cards: model files as people look through them, with pictures and notes.

A client names a card by kind and name; no path of its own reaches the disk. What ships with the
program is shown and not changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from sdforge.api.context import ApiContext
from sdforge.api.control_maps import png_bytes
from sdforge.api.schemas import LenientDict
from sdforge.core.errors import InvalidRequest, ModelError, NotFound
from sdforge.core.paths import demo_checkpoint
from sdforge.models.cards import preview_of, read_notes, write_notes, write_preview
from sdforge.models.checkpoint import read_header

Kind = Literal["checkpoint", "lora", "embedding", "hypernetwork"]
_LARGEST_PREVIEW = 768
_MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
}


@dataclass(frozen=True)
class Card:
    """One model file. `name` is unique among its kind, `insert` what a prompt calls it by."""

    kind: Kind
    name: str
    path: Path
    title: str
    insert: str = ""
    family: str | None = None
    error: str | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether it ships with the program."""
        return self.path.is_relative_to(demo_checkpoint().parent)


class Cards:
    """All cards of one library."""

    def __init__(self, context: ApiContext) -> None:
        """Take the server whose they are."""
        self._context = context
        self._library = context.library

    def all(self) -> list[Card]:
        """Return all, checkpoints first."""
        own = (*self._checkpoints(), *self._loras(), *self._embeddings())
        return [*own, *self._hypernetworks()]

    def find(self, kind: str, name: str) -> Card:
        """Return one; raises `NotFound`."""
        for card in self.all():
            if card.kind == kind and card.name == name:
                return card
        raise NotFound(f"there is no {kind} {name!r}")

    def changeable(self, kind: str, name: str) -> Card:
        """Return one whose notes and picture may be changed.

        Raises:
            NotFound: there is none of that name.
            InvalidRequest: it ships with the program.
        """
        card = self.find(kind, name)
        if card.is_fixed:
            raise InvalidRequest("name", name, "a file of your own; this one ships with sdforge")
        return card

    def refresh(self) -> None:
        """Look for files again."""
        self._library.refresh()
        self._library.loras.refresh()
        self._library.embeddings.refresh()
        self._library.hypernetworks.refresh()

    def _checkpoints(self) -> list[Card]:
        return [
            Card("checkpoint", info.relative, info.path, info.title, "", info.family, info.error)
            for info in self._library.checkpoints()
        ]

    def _loras(self) -> list[Card]:
        return [
            Card(
                "lora",
                info.relative,
                info.path,
                info.name,
                info.name,
                info.family.family if info.family else None,
                info.error,
            )
            for info in self._library.loras.loras()
        ]

    def _embeddings(self) -> list[Card]:
        return [
            Card("embedding", info.name, info.path, info.name, info.name, None, info.error)
            for info in self._library.embeddings.embeddings()
        ]

    def _hypernetworks(self) -> list[Card]:
        return [
            Card("hypernetwork", info.name, info.path, info.name, info.name)
            for info in self._library.hypernetworks.hypernetworks()
        ]


def router(context: ApiContext) -> APIRouter:
    """Return the routes under /api/v1/cards."""
    routes = APIRouter(prefix="/api/v1/cards", tags=["models"])
    cards = Cards(context)

    @routes.get("")
    def list_cards(
        request: Request,
        kind: Kind | None = None,
        search: Annotated[str, Query(max_length=200)] = "",
    ) -> list[dict[str, Any]]:
        """Checkpoints, LoRA, embeddings and hypernetworks with notes and their picture's address.

        With `kind` those alone; with `search` those whose names and notes hold all its words.
        """
        root = request.scope.get("root_path", "")
        chosen = (card for card in cards.all() if kind in (None, card.kind))
        words = search.casefold().split()
        described = (_described(card, root) for card in chosen)
        return [row for row in described if all(word in _searchable(row) for word in words)]

    @routes.post("/refresh")
    def refresh() -> None:
        """Look for model files again."""
        cards.refresh()

    @routes.get("/{kind}/{name:path}/preview", response_class=Response)
    def get_preview(kind: Kind, name: str) -> Response:
        """The picture beside a model file; 404 without one."""
        return _picture(preview_of(cards.find(kind, name).path))

    @routes.post("/{kind}/{name:path}/preview")
    async def set_preview(request: Request, kind: Kind, name: str) -> dict[str, Any]:
        """Put a picture, sent as the body, beside a model file; larger ones become smaller."""
        card = await run_in_threadpool(cards.changeable, kind, name)
        limit = context.engine.settings.current.max_input_pixels
        png = await run_in_threadpool(_small_png, await request.body(), limit)
        await run_in_threadpool(write_preview, card.path, png)
        return _described(card, request.scope.get("root_path", ""))

    @routes.post("/{kind}/{name:path}/notes")
    def set_notes(request: Request, kind: Kind, name: str, values: LenientDict) -> dict[str, Any]:
        """Change description, sd_version, activation_text, negative_text, preferred_weight, notes.

        What is left out stays; the file is A1111's `name.json`.
        """
        card = cards.changeable(kind, name)
        write_notes(card.path, values)
        return _described(card, request.scope.get("root_path", ""))

    @routes.get("/{kind}/{name:path}/metadata")
    def get_metadata(kind: Kind, name: str) -> dict[str, Any]:
        """What the file's own header says."""
        return _metadata(context, cards.find(kind, name))

    @routes.get("/{kind}/{name:path}")
    def get_card(request: Request, kind: Kind, name: str) -> dict[str, Any]:
        """One card."""
        return _described(cards.find(kind, name), request.scope.get("root_path", ""))

    return routes


_SEARCHED = ("name", "title", "family", "description", "activation_text", "notes", "sd_version")


def _searchable(row: Mapping[str, Any]) -> str:
    return "\n".join(row[name] or "" for name in _SEARCHED).casefold()


def _described(card: Card, root: str) -> dict[str, Any]:
    preview = preview_of(card.path)
    address = None
    if preview is not None:
        # The number makes browsers ask again when the picture is another one.
        version = preview.stat().st_mtime_ns
        address = f"{root}/api/v1/cards/{card.kind}/{quote(card.name)}/preview?v={version}"
    try:
        facts = card.path.stat()
        size, created, modified = facts.st_size, facts.st_ctime, facts.st_mtime
    except OSError:
        size, created, modified = 0, 0.0, 0.0
    return {
        "kind": card.kind,
        "name": card.name,
        "title": card.title,
        "insert": card.insert,
        "folder": str(Path(card.name).parent).replace(".", "", 1) if "/" in card.name else "",
        "family": card.family,
        "error": card.error,
        "preview": address,
        "size": size,
        "created": created,
        "modified": modified,
        "fixed": card.is_fixed,
        **read_notes(card.path),
    }


def _metadata(context: ApiContext, card: Card) -> dict[str, Any]:
    if card.kind == "lora":
        info = context.library.loras.find(card.name)
        return info.readable_metadata() if info else {}
    if card.kind == "embedding":
        rows = context.library.embeddings.embeddings()
        return {
            str(k): str(v) for row in rows if row.name == card.name for k, v in row.facts.items()
        }
    if card.kind == "hypernetwork":
        return {}
    try:
        return dict(read_header(card.path).metadata)
    except ModelError:
        return {}


def _picture(path: Path | None) -> Response:
    if path is None:
        raise NotFound("there is no picture beside this model file")
    headers = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
    media_type = _MEDIA_TYPES[path.suffix.casefold()]
    return Response(path.read_bytes(), media_type=media_type, headers=headers)


def _small_png(data: bytes, max_pixels: int) -> bytes:
    # Pillow is loaded when somebody sends a picture, not at start.
    from sdforge.postprocess.decoding import decode_picture

    picture = decode_picture(data, "picture", max_pixels=max_pixels)
    picture.thumbnail((_LARGEST_PREVIEW, _LARGEST_PREVIEW))
    return png_bytes(picture)
