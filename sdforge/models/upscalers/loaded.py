"""Upscalers on demand: networks filled from files, kept for the next picture. Model thread only.

They lie in a store of their own, so that loading one never pushes a checkpoint out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.memory.arena import ALIGNMENT
from sdforge.memory.component import Component
from sdforge.memory.holdings import Holding, Limits, StoreReport
from sdforge.memory.manager import MemoryManager
from sdforge.memory.store import HostStore
from sdforge.models.checkpoint import CheckpointHeader, read_header
from sdforge.models.content import Content
from sdforge.models.families.base import Recipe, Source
from sdforge.models.hashes import Stamp
from sdforge.models.quant import Storage
from sdforge.models.skeleton import Skeleton
from sdforge.models.upscalers.library import UpscalerInfo, UpscalerLibrary
from sdforge.models.upscalers.networks import make_network
from sdforge.models.upscalers.shapes import UpscalerShape, upscaler_shape
from sdforge.models.weights import LoadPlan, load_component

log = logging.getLogger(__name__)

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
    sources = {name: Source(key, header.tensors[key].shape) for name, key in shape.keys.items()}
    skeleton = Skeleton(module)
    missing = [name for name in skeleton.shapes if name not in sources]
    if missing:
        raise MissingModel(
            f"the upscaler in {header.path.name} is incomplete: {len(missing)} of "
            f"{len(skeleton.shapes)} tensors are missing, for one {missing[0]}"
        )
    for name, wanted in skeleton.shapes.items():
        if sources[name].shape != wanted:
            raise UnsupportedCheckpoint(
                f"the upscaler in {header.path.name} cannot be run: {sources[name].key} has the "
                f"shape {list(sources[name].shape)}, {list(wanted)} was expected"
            )
    return Recipe(role=ROLE, layout=header.layout, skeleton=skeleton, sources=sources)


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
        self.store = HostStore(memory.release)
        self.memory = memory
        self._storage = Storage(torch.float32 if compute == torch.float32 else torch.float16)

    @contextmanager
    def lease(self, info: UpscalerInfo) -> Iterator[LoadedUpscaler]:
        """Keep an upscaler in main memory while the block runs, read now unless it is held.

        Raises:
            MissingModel: the file is gone or incomplete.
            UnsupportedCheckpoint: it cannot be run.
            CorruptCheckpoint: damaged.
            OutOfMemory: main memory cannot hold it.
        """
        holding = self._holding(info)
        with self.store.lease(holding):
            component = self.store.component(holding.slots[0])
            if component is None or not isinstance(holding.value, UpscalerShape):
                raise MissingModel(f"the upscaler {info.name} left memory while it was being taken")
            yield LoadedUpscaler(component, holding.value, info.name)

    def unload(self) -> int:
        """Give back all memory; return the bytes freed."""
        return self.store.evict_all()

    def report(self) -> StoreReport:
        """Return who holds main memory; for any thread."""
        return self.store.report()

    def _holding(self, info: UpscalerInfo) -> Holding:
        try:
            stamp = Stamp.of(info.path)
        except OSError as error:
            raise MissingModel(
                f"{info.path} cannot be opened: {error.strerror or error}"
            ) from error
        key = f"{stamp}|{self._storage}"
        held = self.store.holding(key)
        if held is not None:
            return held
        self.store.configure(Limits(holdings=_KEPT))
        started = time.perf_counter()
        header = read_header(info.path)
        shape = upscaler_shape(header)
        recipe = upscaler_recipe(header, shape)
        content = Content.of(recipe, header, self._storage, stamp)
        alignment = ALIGNMENT if self.memory.device.is_host else 1
        plan = LoadPlan(recipe, header, self._storage, alignment)

        def make() -> Component:
            return load_component(
                plan, name=info.name, fingerprint=content.key, on_progress=lambda done: None
            )

        with self.store.loading(plan.host_bytes):
            # The same network under two names is held once.
            if self.store.component(content.key) is None:
                self.store.load(content.key, ROLE, info.name, make)
            held = self.store.hold(key, info.name, [content.key], shape)
        log.info(
            "loaded the upscaler %s in %.2f s: %s",
            info.name,
            time.perf_counter() - started,
            shape.reason,
        )
        return held
