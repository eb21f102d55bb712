"""Folders on the server's disk that a client names: only below those that its owner allowed.

Always allowed is the folder `outputs`; `--gradio-allowed-path` adds others. Links are followed
before anything is compared, so none leads out.
"""

from __future__ import annotations

from pathlib import Path

from sdforge.api.context import ApiContext
from sdforge.core.errors import InvalidRequest

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def allowed_roots(context: ApiContext) -> list[Path]:
    """Return the folders below which clients may name others."""
    named = context.flags.get("gradio_allowed_path") or ()
    return [
        context.paths.resolve_output("outputs"),
        *(Path(one).expanduser().resolve() for one in named),
    ]


def allowed_folder(context: ApiContext, text: str, field: str) -> Path:
    """Return the folder that a client means; relative ones lie below the data folder.

    Raises:
        InvalidRequest: it is not below an allowed one.
    """
    roots = allowed_roots(context)
    allowed = (
        f"a folder below {' or '.join(map(str, roots))}; --gradio-allowed-path allows further ones"
    )
    try:
        folder = context.paths.resolve_output(str(Path(text.strip()).expanduser()))
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidRequest(field, text, allowed) from error
    if not any(folder.is_relative_to(root) for root in roots):
        raise InvalidRequest(field, text, allowed)
    return folder


def pictures_in(context: ApiContext, text: str, field: str, most: int) -> list[Path]:
    """Return the picture files of a folder in order of their names, not those below it.

    Raises:
        InvalidRequest: the folder may not be read, does not exist, or holds none or too many.
    """
    folder = allowed_folder(context, text, field)
    roots = allowed_roots(context)
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
