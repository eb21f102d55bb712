"""Tiny real models for tests: SD 1.x checkpoints of random weights, made in a fraction of a second.

`tiny_checkpoint` is written once per test session; copies and variants come from `make_checkpoint`.
`tiny_server_parts` puts a library, a memory manager and a provider over a folder.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.make_tiny_checkpoints import TINY, TINY_METADATA, write_checkpoint
from sdforge.core.paths import Paths
from sdforge.memory.device import Device, HostDevice
from sdforge.memory.manager import MemoryManager
from sdforge.models.attention import Attend
from sdforge.models.families.sd_keys import Sizes
from sdforge.models.library import Library
from sdforge.models.loader import ModelProvider, Precision

__all__ = ["TINY", "Parts", "Sizes", "make_checkpoint", "tiny_checkpoint", "tiny_server_parts"]

GIB = 1024**3


def make_checkpoint(
    path: Path,
    sizes: Sizes = TINY,
    *,
    seed: int = 0,
    dtype: str = "F32",
    metadata: Mapping[str, str] | None = None,
    prefix: str = "",
) -> Path:
    """Write a random checkpoint; without `metadata` it recommends 64 × 64 pixels and four steps."""
    return write_checkpoint(
        path,
        sizes,
        seed=seed,
        dtype=dtype,
        metadata=TINY_METADATA if metadata is None else metadata,
        prefix=prefix,
    )


def tiny_checkpoint(factory: pytest.TempPathFactory) -> Path:
    """Return the session's tiny checkpoint (25 MB, fp32); do not change it, copy it."""
    path = factory.getbasetemp() / "tiny" / "tiny.safetensors"
    return path if path.exists() else make_checkpoint(path)


def sparse_checkpoint(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    dtype: str = "F16",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a file of these tensors whose data takes no disk, for tests that read headers only."""
    size = {"F8_E4M3": 1, "F16": 2, "BF16": 2, "F32": 4}[dtype]
    header: dict[str, object] = {"__metadata__": dict(metadata or {})}
    place = 0
    for name, shape in shapes.items():
        end = place + math.prod(shape) * size
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + place)
    return path


@dataclass(frozen=True)
class Parts:
    """What a server is made of below its engine."""

    paths: Paths
    library: Library
    memory: MemoryManager
    provider: ModelProvider


def link(source: Path | str, place: Path | str) -> None:
    """Have a file that is never written to again in another place too, as `shutil.copy` does."""
    place = Path(place)
    try:
        os.link(source, place / Path(source).name if place.is_dir() else place)
    except OSError:  # another file system
        shutil.copy(source, place)


def tiny_server_parts(
    data: Path,
    *checkpoints: Path,
    precision: Precision | None = None,
    device: Device | None = None,
    unit_cap_bytes: int | None = None,
    attention: Attend | None = None,
    put: Callable[[Path | str, Path | str], object] = shutil.copy,
) -> Parts:
    """Return the parts over the folder `data`, with copies of `checkpoints` as its models."""
    import torch

    paths = Paths.under(data)
    paths.checkpoints[0].mkdir(parents=True, exist_ok=True)
    for checkpoint in checkpoints:
        place = paths.checkpoints[0] / checkpoint.name
        if checkpoint.is_dir():
            shutil.copytree(checkpoint, place, copy_function=put)
        else:
            put(checkpoint, place)
    library = Library(paths)
    memory = MemoryManager(device or HostDevice(8 * GIB), unit_cap_bytes=unit_cap_bytes)
    full = Precision(torch.float32, torch.float32, torch.float32)
    provider = ModelProvider(library, memory, precision=precision or full, attention=attention)
    return Parts(paths, library, memory, provider)
