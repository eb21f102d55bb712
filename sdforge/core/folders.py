"""Folders on the server's disk that a client names: only below those that its owner allowed.

Always allowed is the folder `outputs`; `--gradio-allowed-path` adds others. Links are followed
before anything is compared, so none leads out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.core.paths import Paths

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


class AllowedFolders:
    """The folders of one server below which clients may name others."""

    def __init__(self, paths: Paths, flags: Mapping[str, Any] | None = None) -> None:
        """Take the server's folders, and its start-up flags for further ones."""
        self._paths = paths
        self._named = tuple((flags or {}).get("gradio_allowed_path") or ())

    def roots(self) -> list[Path]:
        """Return the folders that are allowed, links followed."""
        return [
            self._paths.resolve_output("outputs"),
            *(Path(one).expanduser().resolve() for one in self._named),
        ]

    def folder(self, text: str, field: str) -> Path:
        """Return the folder that a client means; relative ones lie below the data folder.

        Raises:
            InvalidRequest: it is not below an allowed one.
        """
        roots = self.roots()
        allowed = (
            f"a folder below {' or '.join(map(str, roots))}; "
            "--gradio-allowed-path allows further ones"
        )
        try:
            folder = self._paths.resolve_output(str(Path(text.strip()).expanduser()))
        except (OSError, RuntimeError, ValueError) as error:
            raise InvalidRequest(field, text, allowed) from error
        if not any(folder.is_relative_to(root) for root in roots):
            raise InvalidRequest(field, text, allowed)
        return folder

    def pictures(self, text: str, field: str, most: int) -> list[Path]:
        """Return the picture files of a folder in order of their names, not those below it.

        Raises:
            InvalidRequest: the folder may not be read, does not exist, or holds none or too many.
        """
        folder = self.folder(text, field)
        roots = self.roots()
        try:
            names = sorted(folder.iterdir())
        except OSError as error:
            raise InvalidRequest(
                field, text, f"a folder that can be read ({error.strerror})"
            ) from error
        found = [
            path
            for path in names
            if path.suffix.lower() in _PICTURES
            and path.is_file()
            and any(path.resolve().is_relative_to(root) for root in roots)
        ]
        if not 0 < len(found) <= most:
            raise InvalidRequest(field, f"{len(found)} pictures in {folder}", f"1 to {most}")
        return found
