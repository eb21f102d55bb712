"""Pictures that lie in the output folders and are not in the history yet: those of A1111, say.

Which folders are looked through is the owner's matter (settings `outdir_…`, `--history-dir`);
clients only say when. Symbolic links are not followed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdforge.core.paths import Paths
from sdforge.core.settings import Settings
from sdforge.engine.history_store import Picture
from sdforge.output.infotext import parse_infotext

log = logging.getLogger(__name__)

MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
}
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ImportStatus:
    """How far an import is: files found, added, not readable, known ones whose file is gone."""

    is_running: bool = False
    found: int = 0
    added: int = 0
    skipped: int = 0
    missing: int = 0
    error: str | None = None


def output_folders(paths: Paths, settings: Settings) -> list[Path]:
    """Return the folders that pictures are saved to, and those that a flag adds."""
    named = [
        str(value)
        for key, value in settings.to_json().items()
        if key.startswith("outdir_") and isinstance(value, str) and value
    ]
    return list(dict.fromkeys([*map(paths.resolve_output, named), *paths.extra_outputs]))


def found_pictures(
    folders: Sequence[Path], known: Mapping[str, tuple[int, int, bool]], stopping: threading.Event
) -> Iterator[tuple[str, Picture | None]]:
    """Yield (path, row) of the pictures in some folders; None for known and unreadable ones."""
    seen: set[str] = set()
    for folder in folders:
        for path in _files(folder):
            if stopping.is_set():
                return
            text = str(path)
            if text in seen:
                continue
            seen.add(text)
            yield text, None if text in known else read_picture(path)


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            path = Path(parent) / name
            is_picture = path.suffix.lower() in MEDIA_TYPES and not name.startswith(".")
            if is_picture and not path.is_symlink():
                yield path


def read_picture(path: Path) -> Picture | None:
    """Return the row of a file, None when it is no picture that can be read."""
    # Pillow is loaded when somebody imports, not at start.
    from sdforge.output.metadata import read_infotext, read_size

    try:
        stat = path.stat()
        width, height = read_size(path)
        infotext = read_infotext(path)
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(_CHUNK_BYTES):
                digest.update(part)
    except (OSError, ValueError, SyntaxError) as error:
        log.info("%s is left out of the history: %s", path, error)
        return None
    said = parse_infotext(infotext)
    seed = said.fields.get("Seed", "")
    return Picture(
        path=str(path),
        sha256=digest.hexdigest(),
        bytes=stat.st_size,
        media_type=MEDIA_TYPES[path.suffix.lower()],
        width=width,
        height=height,
        kind="imported",
        created_at=stat.st_mtime,
        seed=int(seed) if seed.isdecimal() and len(seed) < 19 else None,
        prompt=said.prompt,
        negative_prompt=said.negative_prompt,
        model=said.fields.get("Model", ""),
        infotext=infotext,
    )
