"""Upscalers on demand: networks filled from files, kept for the next picture. Model thread only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from sdforge.memory.component import Component
from sdforge.memory.holdings import StoreReport
from sdforge.memory.manager import MemoryManager
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Recipe
from sdforge.models.file_networks import FileNetworks, file_recipe
from sdforge.models.quant import Storage
from sdforge.models.upscalers.library import UpscalerInfo, UpscalerLibrary
from sdforge.models.upscalers.networks import make_network
from sdforge.models.upscalers.shapes import UpscalerShape, upscaler_shape

ROLE = "upscaler"
# Two may be blended; the next picture needs them again.
_KEPT = 2


@dataclass(frozen=True, eq=False)
class LoadedUpscaler:
    """A network on the host, and what it is."""

    component: Component
    shape: UpscalerShape
    name: str


def upscaler_recipe(header: CheckpointHeader, shape: UpscalerShape) -> Recipe:
    """Return how to make an upscaler from a file, all shapes checked.

    Raises:
        MissingModel: some of it is missing.
        UnsupportedCheckpoint: its shapes do not fit together.
    """
    with torch.device("meta"):
        module = make_network(shape)
    return file_recipe(header, ROLE, module, shape.keys)


class Upscalers:
    """Gives out upscaler networks, loading those that are not in memory."""

    def __init__(
        self, library: UpscalerLibrary, memory: MemoryManager, *, compute: torch.dtype
    ) -> None:
        """Load nothing yet.

        Args:
            library: the files there are.
            memory: places the networks.
            compute: the type that denoisers compute in. Upscalers take fp16 where that has 16 bits:
                bf16 has fewer steps than a picture.
        """
        self.library = library
        self.memory = memory
        storage = Storage(torch.float32 if compute == torch.float32 else torch.float16)
        self._networks = FileNetworks(memory, storage, _described, keeps=_KEPT)
        self.store = self._networks.store

    @contextmanager
    def lease(self, info: UpscalerInfo) -> Iterator[LoadedUpscaler]:
        """Keep an upscaler in main memory while the block runs, read now unless it is held.

        Raises:
            MissingModel: the file is gone or incomplete.
            UnsupportedCheckpoint: it cannot be run.
            CorruptCheckpoint: damaged.
            OutOfMemory: main memory cannot hold it.
        """
        with self._networks.lease(info.path, info.name) as (component, shape):
            yield LoadedUpscaler(component, shape, info.name)

    def unload(self) -> int:
        """Give back all memory; return the bytes freed."""
        return self.store.evict_all()

    def report(self) -> StoreReport:
        """Return who holds main memory; for any thread."""
        return self.store.report()


def _described(header: CheckpointHeader) -> tuple[Recipe, UpscalerShape, str]:
    shape = upscaler_shape(header)
    return upscaler_recipe(header, shape), shape, shape.reason
