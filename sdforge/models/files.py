"""Finding model files below a folder; shared by the libraries of all kinds. No torch here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# The file that makes a folder a model, as diffusers writes them.
MODEL_INDEX = "model_index.json"


def model_files(root: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Yield files of these suffixes below a folder in order; a folder that is missing has none.

    Links are followed, each folder once; what begins with a dot is left out, and so is what lies in
    folders that are models as a whole.
    """
    for folder, names in _folders(root):
        if MODEL_INDEX in names:
            continue
        for name in names:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield folder / name


def model_folders(root: Path) -> Iterator[Path]:
    """Yield the folders below a folder that are models in the layout of diffusers, in order."""
    for folder, names in _folders(root):
        if MODEL_INDEX in names:
            yield folder


def folder_files(folder: Path) -> list[Path]:
    """Return all that tells what a model's folder holds: the index, configurations, weights."""
    names = (MODEL_INDEX, "*/*.json", "*/*.safetensors", "*/*.bin")
    return sorted(path for name in names for path in folder.glob(name))


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield folders with the names of their files; models' folders are not looked into."""
    visited: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        if MODEL_INDEX in names:
            subfolders.clear()
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield Path(folder), sorted(names)
