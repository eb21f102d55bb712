"""Pickles of plain values and tensors, as small old files are: read without running their code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdforge.core.errors import CorruptCheckpoint, MissingModel, UnsupportedCheckpoint


def read_plain_pickle(path: Path, *, kind: str, most_bytes: int) -> Mapping[str, Any]:
    """Return the names of a file and what they stand for.

    Args:
        path: the file.
        kind: what it should be, for messages.
        most_bytes: larger files are refused.

    Raises:
        MissingModel: it cannot be opened.
        UnsupportedCheckpoint: it is too large, or no table of names.
        CorruptCheckpoint: damaged, or it would run code.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise MissingModel(f"{path} cannot be read: {error.strerror or error}") from error
    if size > most_bytes:
        raise UnsupportedCheckpoint(
            f"{path.name} is too large: no {kind} has {size / 2**20:.0f} MiB"
        )
    try:
        # The first program for embeddings kept them in a ParameterDict, which runs no code.
        with torch.serialization.safe_globals([nn.ParameterDict]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise MissingModel(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # damaged bytes can raise anything
        reason = str(error).strip().splitlines()
        raise CorruptCheckpoint(
            f"{path.name} cannot be read without running code from it, or is damaged: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error
    if not isinstance(content, Mapping):
        raise UnsupportedCheckpoint(f"{path.name} is no {kind}: it holds no names")
    return {str(key): value for key, value in content.items()}
