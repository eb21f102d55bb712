"""Finding model files below a folder; shared by the libraries of all kinds. No torch here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def model_files(root: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Yield files of these suffixes below a folder in order; a folder that is missing has none.

    Links are followed, each folder once; what begins with a dot is left out.
    """
    visited: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield Path(folder) / name
