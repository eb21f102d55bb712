"""Networks that are a file each and go with no checkpoint: filled on demand, kept for the next use.

Upscalers and networks of faces are such. They lie in a store of their own, so that loading one
never pushes a checkpoint out. Model thread only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar, cast

import torch
from torch import nn

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
from sdforge.models.weights import LoadPlan, load_component

log = logging.getLogger(__name__)

ShapeT = TypeVar("ShapeT")


def file_recipe(
    header: CheckpointHeader, role: str, module: nn.Module, keys: Mapping[str, str]
) -> Recipe:
    """Return how to fill a network from a file, all shapes checked.

    Args:
        header: the file's.
        role: what the network does, as messages call it.
        module: the network, on the meta device.
        keys: tensor of the network → tensor of the file.

    Raises:
        MissingModel: some of it is missing.
        UnsupportedCheckpoint: its shapes do not fit together.
    """
    sources = {name: Source(key, header.tensors[key].shape) for name, key in keys.items()}
    skeleton = Skeleton(module)
    missing = [name for name in skeleton.shapes if name not in sources]
    if missing:
        raise MissingModel(
            f"the {role} in {header.path.name} is incomplete: {len(missing)} of "
            f"{len(skeleton.shapes)} tensors are missing, for one {missing[0]}"
        )
    for name, wanted in skeleton.shapes.items():
        if sources[name].shape != wanted:
            raise UnsupportedCheckpoint(
                f"the {role} in {header.path.name} cannot be run: {sources[name].key} has the "
                f"shape {list(sources[name].shape)}, {list(wanted)} was expected"
            )
    return Recipe(role=role, layout=header.layout, skeleton=skeleton, sources=sources)


class FileNetworks(Generic[ShapeT]):
    """Gives out networks of one role, loading those that are not in memory."""

    def __init__(
        self,
        memory: MemoryManager,
        storage: Storage,
        describe: Callable[[CheckpointHeader], tuple[Recipe, ShapeT, str]],
        *,
        keeps: int,
        read: Callable[[Path], CheckpointHeader] = read_header,
    ) -> None:
        """Load nothing yet.

        Args:
            memory: places the networks.
            storage: the type that weights are kept in.
            describe: returns, of a file, how to make the network, what it is, and that in words.
            keeps: how many networks stay.
            read: returns a file's header.
        """
        self.memory = memory
        self.store = HostStore(memory.release)
        self._storage = storage
        self._describe = describe
        self._keeps = keeps
        self._read = read

    @contextmanager
    def lease(self, path: Path, name: str) -> Iterator[tuple[Component, ShapeT]]:
        """Keep a network in main memory while the block runs, read now unless it is held.

        Raises:
            MissingModel: the file is gone or incomplete.
            UnsupportedCheckpoint: it cannot be run.
            CorruptCheckpoint: damaged.
            OutOfMemory: main memory cannot hold it.
        """
        holding = self._holding(path, name)
        with self.store.lease(holding):
            component = self.store.component(holding.slots[0])
            if component is None:
                raise MissingModel(f"{name} left memory while it was being taken")
            yield component, cast("ShapeT", holding.value)

    def unload(self) -> int:
        """Give back all memory; return the bytes freed."""
        return self.store.evict_all()

    def report(self) -> StoreReport:
        """Return who holds main memory; for any thread."""
        return self.store.report()

    def _holding(self, path: Path, name: str) -> Holding:
        try:
            stamp = Stamp.of(path)
        except OSError as error:
            raise MissingModel(f"{path} cannot be opened: {error.strerror or error}") from error
        key = f"{stamp}|{self._storage}"
        held = self.store.holding(key)
        if held is not None:
            return held
        self.store.configure(Limits(holdings=self._keeps))
        started = time.perf_counter()
        header = self._read(path)
        with torch.device("meta"):
            recipe, shape, words = self._describe(header)
        content = Content.of(recipe, header, self._storage, stamp)
        alignment = ALIGNMENT if self.memory.device.is_host else 1
        plan = LoadPlan(recipe, header, self._storage, alignment)

        def make() -> Component:
            return load_component(
                plan, name=name, fingerprint=content.key, on_progress=lambda done: None
            )

        with self.store.loading(plan.host_bytes):
            # The same network under two names is held once.
            if self.store.component(content.key) is None:
                self.store.load(content.key, recipe.role, name, make)
            held = self.store.hold(key, name, [content.key], shape)
        spent = time.perf_counter() - started
        log.info("loaded the %s %s in %.2f s: %s", recipe.role, name, spent, words)
        return held
