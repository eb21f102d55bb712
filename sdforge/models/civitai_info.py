"""What download helpers lay beside a model file: `x.civitai.info`, Civitai's answer about it.

Read where a user wrote no notes of their own, and never written. Of what it says, text alone is
taken over: no markup, no addresses but that of the model's page. No torch here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_ENDING = ".civitai.info"
_MOST_BYTES = 4 * 1024 * 1024
_LONGEST = 20_000
# Beginnings of Civitai's names of base models → A1111's names of versions; the longest first.
_VERSIONS = (
    ("sdxl", "SDXL"), ("pony", "SDXL"), ("illustrious", "SDXL"), ("noobai", "SDXL"),
    ("sd 1", "SD1"), ("sd 2", "SD2"), ("sd 3", "SD3"), ("flux", "Flux"),
)  # fmt: skip
_BLOCKS = ("p", "br", "div", "li", "h1", "h2", "h3", "h4", "tr")


def civitai_notes(model: Path) -> dict[str, str]:
    """Return the notes that a helper's file beside a model gives, by our names; {} without one."""
    found = _read(model.with_name(model.stem + _ENDING))
    about = found.get("model")
    about = about if isinstance(about, dict) else {}
    words = found.get("trainedWords")
    told = words if isinstance(words, list) else []
    trained = [word.strip(" ,") for word in told if isinstance(word, str)]
    notes = {
        "description": plain_text(_text(found.get("description")))
        or plain_text(_text(about.get("description")))
        or _title(found, about),
        "sd_version": _version(_text(found.get("baseModel"))),
        "activation_text": ", ".join(filter(None, trained)),
        "page": _page(found.get("modelId"), found.get("id")),
    }
    return {name: text[:_LONGEST] for name, text in notes.items() if text}


def plain_text(markup: str) -> str:
    """Return the words of a piece of HTML, its paragraphs as lines."""
    reader = _Words()
    reader.feed(markup[: 5 * _LONGEST])
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.parts).split("\n"))
    return "\n".join(filter(None, lines))


class _Words(HTMLParser):
    """Collects text, and a line's end wherever a block begins or ends; scripts count as nothing."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._hidden += tag in ("script", "style")
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style") and self._hidden > 0
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data.replace("\n", " "))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            log.warning("%s is not read: it has more than %d bytes", path, _MOST_BYTES)
            return {}
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s cannot be read and counts as empty: %s", path, error)
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _title(found: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    return " ".join(_names(found, about))


def _names(found: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[str]:
    for name in (about.get("name"), found.get("name")):
        if isinstance(name, str) and name.strip():
            yield name.strip()


def _version(base: str) -> str:
    said = base.casefold()
    return next((name for start, name in _VERSIONS if said.startswith(start)), "")


def _page(model: object, version: object) -> str:
    numbers = [n for n in (model, version) if isinstance(n, int) and not isinstance(n, bool)]
    if len(numbers) < 2 or min(numbers) < 1:
        return ""
    return f"https://civitai.com/models/{numbers[0]}?modelVersionId={numbers[1]}"
