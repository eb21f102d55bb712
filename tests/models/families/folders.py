"""Folders in the layout of diffusers, as its pipelines save them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any


def saved(pipe: Any, folder: Path) -> Path:
    """Save a pipeline's networks, tokenizers and index."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.save_pretrained(folder)
    return folder
