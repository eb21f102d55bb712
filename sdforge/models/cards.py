"""What lies beside a model file for people: a preview picture and notes, named as A1111 names them.

`x.safetensors` has its picture in `x.preview.png` or `x.png` (or jpg, jpeg, webp, gif) and its
notes in `x.json`. Files of other programs may hold more than we know: what we do not change stays.
No torch here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdforge.core.errors import InvalidRequest, StorageError
from sdforge.core.settings import write_atomically
from sdforge.models.civitai_info import civitai_notes

log = logging.getLogger(__name__)

PICTURE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "gif")
# Our names of what A1111's editor keeps, and its keys.
NOTES: Mapping[str, tuple[str, type]] = {
    "description": ("description", str),
    "sd_version": ("sd version", str),
    "activation_text": ("activation text", str),
    "negative_text": ("negative text", str),
    "preferred_weight": ("preferred weight", float),
    "notes": ("notes", str),
}
_LONGEST_NOTE = 20_000
_MOST_WEIGHT = 10.0


def preview_of(model: Path) -> Path | None:
    """Return the picture beside a model file, None where there is none."""
    stem = model.with_suffix("")
    for suffix in PICTURE_SUFFIXES:
        for name in (f"{stem.name}.{suffix}", f"{stem.name}.preview.{suffix}"):
            if (found := stem.with_name(name)).is_file():
                return found
    return None


def read_notes(model: Path) -> dict[str, Any]:
    """Return the notes beside a model file by our names; empty texts and 0 where there are none.

    Where the notes have no description, a text file beside the model (`x.txt` or
    `x.description.txt`) is one. What is still empty is filled from `x.civitai.info`, which also
    tells the model's `page`.
    """
    found = _read_file(model.with_suffix(".json"))
    told = civitai_notes(model)
    notes: dict[str, Any] = {}
    for name, (key, kind) in NOTES.items():
        value = found.get(key)
        if kind is float:
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            notes[name] = float(value or 0.0) if is_number else 0.0
        else:
            notes[name] = value if isinstance(value, str) else ""
    notes["description"] = notes["description"] or _described(model)
    for name in NOTES:
        # What was emptied on purpose stays empty.
        if not notes[name] and NOTES[name][0] not in found:
            notes[name] = told.get(name, notes[name])
    return {**notes, "page": told.get("page", "")}


def write_notes(model: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Change notes beside a model file, leave the others, and return all.

    Raises:
        InvalidRequest: a value is no text, no weight from 0 to 10, or too long.
        StorageError: the file could not be written.
    """
    path = model.with_suffix(".json")
    kept = _read_file(path)
    for name, value in values.items():
        if name not in NOTES:
            raise InvalidRequest(name, value, f"one of {', '.join(NOTES)}")
        key, kind = NOTES[name]
        kept[key] = _checked(name, kind, value)
    write_atomically(path, (json.dumps(kept, indent=4, ensure_ascii=False) + "\n").encode())
    return read_notes(model)


def write_preview(model: Path, png: bytes) -> Path:
    """Store a PNG as the picture beside a model file, in place of one that is there.

    Raises:
        StorageError: the file could not be written, or the old one not removed.
    """
    before = preview_of(model)
    path = model.with_name(f"{model.stem}.preview.png")
    write_atomically(path, png)
    # A picture that wins over the new one would go on being shown.
    while (shown := preview_of(model)) is not None and shown != path:
        try:
            shown.rename(shown.with_name(f"{shown.name}.replaced"))
        except OSError as error:
            text = f"could not replace {before}: {error.strerror or error}"
            raise StorageError(text) from error
    return path


def _checked(name: str, kind: type, value: Any) -> Any:
    if kind is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= _MOST_WEIGHT:
            raise InvalidRequest(name, value, f"a number from 0 to {_MOST_WEIGHT:g}")
        return value
    if not isinstance(value, str) or len(value) > _LONGEST_NOTE:
        raise InvalidRequest(name, str(value)[:40], f"text of at most {_LONGEST_NOTE} characters")
    return value


def _read_file(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read and counts as empty: %s", path, error)
        return {}
    return found if isinstance(found, dict) else {}


def _described(model: Path) -> str:
    for suffix in (".txt", ".description.txt"):
        try:
            text = model.with_suffix(suffix).read_text(encoding="utf-8-sig")
        except (OSError, ValueError):
            continue
        return text[:_LONGEST_NOTE].strip()
    return ""
