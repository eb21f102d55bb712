"""Words that prompts are often made of, for the page to complete: files of the folder `tags`.

A line is `name,kind,count,"alias,alias"`, as tag lists for A1111 are kept (such as Danbooru's),
or just a name. Names of that kind hold underscores, which prompts write as spaces.
"""

from __future__ import annotations

import csv
import logging
import threading
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_SUFFIXES = (".csv", ".txt")
_LONGEST = 200


@dataclass(frozen=True)
class Tag:
    """One word; `count` says how common it is, `aliases` what else finds it (all in lower case)."""

    name: str
    count: int = 0
    aliases: tuple[str, ...] = ()

    def as_prompt(self) -> str:
        """Return it as it stands in a prompt: spaces for underscores, brackets escaped."""
        text = self.name.replace("_", " ") if len(self.name) > 3 else self.name
        return text.replace("(", "\\(").replace(")", "\\)")


class TagFolder:
    """The tag files of a folder, read when first asked for and again when one changes."""

    def __init__(self, folder: Path) -> None:
        """Look nowhere yet; the folder may be missing."""
        self._folder = folder
        self._lock = threading.Lock()
        self._stamps: tuple[tuple[str, int, int], ...] = ()
        self._tags: tuple[Tag, ...] = ()

    def find(self, text: str, limit: int) -> list[Tag]:
        """Return tags that begin with a text, then those that hold it, the common ones first."""
        wanted = text.strip().casefold().replace(" ", "_")
        if not wanted:
            return []
        begin: list[Tag] = []
        inside: list[Tag] = []
        for tag in self._current():
            folded = tag.name.casefold()
            if folded.startswith(wanted) or any(one.startswith(wanted) for one in tag.aliases):
                begin.append(tag)
                if len(begin) == limit:
                    break
            elif wanted in folded and len(inside) < limit:
                inside.append(tag)
        return [*begin, *inside][:limit]

    def _current(self) -> tuple[Tag, ...]:
        files = [path for path in self._files() if path.is_file()]
        stamps = tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in files)
        with self._lock:
            if stamps != self._stamps:
                tags = {tag.name: tag for path in reversed(files) for tag in _read(path)}
                self._tags = tuple(sorted(tags.values(), key=lambda tag: -tag.count))
                self._stamps = stamps
            return self._tags

    def _files(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        found = (path for path in self._folder.iterdir() if not path.name.startswith("."))
        return sorted(path for path in found if path.suffix.casefold() in _SUFFIXES)


def _read(path: Path) -> list[Tag]:
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            return [tag for row in csv.reader(file) if (tag := _tag(row)) is not None]
    except (OSError, csv.Error) as error:
        log.warning("the tags in %s cannot be read: %s", path, error)
        return []


def _tag(row: list[str]) -> Tag | None:
    name = row[0].strip() if row else ""
    if not name or len(name) > _LONGEST or name.startswith("#"):
        return None
    count = row[2].strip() if len(row) > 2 else ""
    aliases = row[3].casefold().split(",") if len(row) > 3 else []
    return Tag(
        name, int(count) if count.isdecimal() else 0, tuple(one.strip() for one in aliases if one)
    )
