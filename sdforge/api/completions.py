"""GET /api/v1/completions: how what is being typed into a prompt may go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query

from sdforge.api.context import ApiContext
from sdforge.models.cards import read_notes
from sdforge.prompt.tags import TagFolder
from sdforge.prompt.wildcards import WildcardFolder

_LORA = "<lora:"


def router(context: ApiContext) -> APIRouter:
    """Return the route."""
    routes = APIRouter(prefix="/api/v1", tags=["prompts"])
    finder = _Finder(context)

    @routes.get("/completions")
    def completions(
        text: Annotated[str, Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 12,
    ) -> list[dict[str, Any]]:
        """{kind, text, insert}: what replaces the part of a prompt that was typed.

        After `<` LoRA are offered, after `__` wildcards, else embeddings and the words of the
        files in the folder `tags`.
        """
        return finder.find(text.strip(), limit)

    return routes


class _Finder:
    """What can be offered, over the files of one server."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._tags = TagFolder(context.paths.tags)
        self._wildcards = WildcardFolder(context.paths.wildcards)

    def find(self, text: str, limit: int) -> list[dict[str, Any]]:
        if text.startswith("<"):
            found = self._loras(text)
        elif text.startswith("__"):
            names = _matching(self._wildcards.names(), text.removeprefix("__"))
            found = (_row("wildcard", name, f"__{name}__") for name in names)
        else:
            found = self._words(text, limit)
        return [row for _, row in zip(range(limit), found, strict=False)]

    def _loras(self, text: str) -> Iterator[dict[str, Any]]:
        typed = text.removeprefix("<")
        # "<", "<lo" and "<lora:" say no more than that a LoRA is wanted.
        part = "" if _LORA[1:].startswith(typed) else text.removeprefix(_LORA).removeprefix("<")
        weight = self._context.engine.settings.current.extra_networks_default_multiplier
        loras = {one.name: one for one in self._context.library.loras.loras() if not one.error}
        for name in _matching(list(loras), part):
            notes = read_notes(loras[name].path)
            tag = f"{_LORA}{name}:{notes['preferred_weight'] or weight:g}>"
            yield _row("lora", name, " ".join(filter(None, (tag, notes["activation_text"]))))

    def _words(self, text: str, limit: int) -> Iterator[dict[str, Any]]:
        embeddings = [one.name for one in self._context.library.embeddings.embeddings()]
        for name in _matching(embeddings, text) if text else ():
            yield _row("embedding", name, name)
        for tag in self._tags.find(text, limit):
            yield _row("tag", tag.name, tag.as_prompt())


def _matching(names: list[str], part: str) -> list[str]:
    """Return the names that hold a text, those that begin with it first."""
    wanted = part.casefold()
    found = [name for name in names if wanted in name.casefold()]
    return sorted(found, key=lambda name: (not name.casefold().startswith(wanted), name.casefold()))


def _row(kind: str, text: str, insert: str) -> dict[str, Any]:
    return {"kind": kind, "text": text, "insert": insert}
