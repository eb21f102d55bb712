"""Translations of the page: JSON files of one language, English text → the same in that language.

The format is A1111's, so its files load. Those that ship lie in `configs/locales`, a user's own in
the folder `localizations`; of two of one name the user's counts. In a text `{}` stands for whatever
changes, such as a number.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from sdforge.core.paths import configs_root

log = logging.getLogger(__name__)

AUTOMATIC, NONE = "Automatic", "None"
# What browsers call the languages of files that ship, beside their names.
_ALIASES = {"zh": "zh_cn", "zh_hans": "zh_cn", "zh_hans_cn": "zh_cn", "zh_sg": "zh_cn"}


class Localizations:
    """The files of the shipped folder and the user's."""

    def __init__(self, folder: Path) -> None:
        """Take the user's folder, which may be missing."""
        self._folders = (configs_root() / "locales", folder)

    def names(self) -> list[str]:
        """Return the names of all translations."""
        return sorted(self._files())

    def choose(self, wanted: str, languages: Sequence[str]) -> tuple[str, Mapping[str, str]]:
        """Return (name, texts) of a translation; ("", {}) for English.

        Args:
            wanted: the setting: a file's name, "None", or "Automatic" for the browser's language.
            languages: what the browser prefers, best first, such as "zh-CN".
        """
        files = self._files()
        if wanted != AUTOMATIC:
            name = wanted if wanted in files else None
        else:
            name = _preferred(files, languages)
        return (name, _read(files[name])) if name else ("", {})

    def _files(self) -> dict[str, Path]:
        return {path.stem: path for folder in self._folders for path in folder.glob("*.json")}


def _preferred(files: Mapping[str, Path], languages: Sequence[str]) -> str | None:
    known = {name.casefold().replace("-", "_"): name for name in files}
    for language in languages:
        code = language.casefold().replace("-", "_")
        for candidate in (code, _ALIASES.get(code, ""), code.partition("_")[0]):
            if candidate == "en":
                return None
            if candidate in known:
                return known[candidate]
    return None


def _read(path: Path) -> Mapping[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        log.warning("the translation %s cannot be read: %s", path, error)
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if value and isinstance(value, str)}
