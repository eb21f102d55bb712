"""Whether a merged checkpoint may be written where it shall, asked before anything is. No torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from sdforge.core.errors import InvalidRequest, StorageError
from sdforge.models.merging.plan import MergePlan

# Beside the file itself: file systems keep some room, and other programs write too.
_SPARE_BYTES = 64 * 1024 * 1024


def check_space(folder: Path, plan: MergePlan) -> None:
    """Raise `StorageError` unless a folder's disk has room for the new file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StorageError(f"{folder} cannot be used: {error.strerror or error}") from error
    if free < plan.data_bytes + _SPARE_BYTES:
        raise StorageError(
            f"the merged checkpoint takes {plan.data_bytes / 2**20:.0f} MiB and {folder} has "
            f"{free / 2**20:.0f} MiB free; make room or save it as fp16 or fp8"
        )


def check_target(target: Path, inputs: Iterable[Path], field: str, *, overwrite: bool) -> None:
    """Raise `InvalidRequest` for `field` where a file is that may not be replaced.

    Those that go in never may.
    """
    if not target.exists():
        return
    if any(path.exists() and target.samefile(path) for path in inputs):
        allowed = "another name: this file is one of those that are merged"
        raise InvalidRequest(field, target.name, allowed)
    if not overwrite or target.is_dir():
        raise InvalidRequest(field, target.name, "a name that no file has, or overwrite")


def inputs_of(plan: MergePlan) -> list[Path]:
    """Return all files that go in."""
    return [piece.path for header in plan.headers for piece in header.pieces]
