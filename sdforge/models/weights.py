"""Fill the networks that recipes describe: weights from a file into host memory.

Where the file holds what is wanted, at a place that suits, parameters are views of the mapped file
and cost no memory of their own; otherwise they are read piece by piece through a small buffer and
converted on the way into an arena. Either way there is never a second copy. `quant.py` says in
which type each is kept.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import torch
from torch import nn

from sdforge.core.errors import CorruptCheckpoint, MissingModel, UnsupportedCheckpoint
from sdforge.memory.arena import ALIGNMENT, Arena, aligned_bytes
from sdforge.memory.component import Component
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Recipe, Source
from sdforge.models.formats.ggml_types import BLOCK_TYPES
from sdforge.models.layout import TensorInfo
from sdforge.models.quant import (
    Kept,
    Pack,
    Storage,
    convert,
    kept,
    kept_blocks,
    layer_weights,
    packable,
)

# Large enough to read at full speed, small beside any model.
BUFFER_BYTES = 16 * 1024 * 1024
TORCH_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_MOST_ALIGNMENT = max(ALIGNMENT, 8)
_FLOAT8_NAMES = ("F8_E4M3", "F8_E5M2")


def load_component(
    plan: LoadPlan,
    *,
    name: str,
    fingerprint: str,
    on_progress: Callable[[int], None],
) -> Component:
    """Read one network, in eval mode and without gradients.

    Args:
        plan: which network, from which file, and how its tensors are to lie.
        name: of the checkpoint, for messages and reports.
        fingerprint: what the component is equal by.
        on_progress: called with the bytes of the file that are done since the last call.

    Raises:
        MissingModel: the file is gone.
        CorruptCheckpoint: the file became shorter since its header was read.
        UnsupportedCheckpoint: it holds numbers of a type that cannot be converted.
    """
    with _WeightFile(plan.header) as file:
        arena = Arena(plan.host_bytes)
        try:
            tensors = {key: file.view(plan.recipe.info(key), plan.kept[key]) for key in plan.mapped}
            on_progress(plan.mapped_bytes)
            for key in plan.copied:
                how = plan.kept[key]
                tensors[key] = arena.allocate(how.shape, how.dtype)
                info = plan.recipe.info(key)
                file.read(info, plan.recipe.sources[key], tensors[key], on_progress, how.pack)
            module = _assemble(plan, tensors)
            return Component(
                role=plan.recipe.role,
                name=name,
                fingerprint=fingerprint,
                module=module,
                arenas=(arena,) if plan.copied else (),
                decoders={key: how.decode for key, how in plan.kept.items() if how.decode},
            )
        except BaseException:
            arena.release()
            raise


class LoadPlan:
    """How each tensor of a component will lie in memory, known before anything is read.

    `alignment` is what a mapped tensor needs that is computed with where it lies: CPU kernels round
    differently on memory that is not aligned as an allocator's is, by one level of a picture. 1
    where weights are copied to a device first.
    """

    def __init__(
        self, recipe: Recipe, header: CheckpointHeader, storage: Storage, alignment: int
    ) -> None:
        """Decide for every tensor of a file of the recipe's layout; reads nothing."""
        self.recipe = recipe
        self.header = header
        places = _places(recipe, storage, alignment, header.data_start % _MOST_ALIGNMENT)
        self.kept, self.mapped, self.copied = places.kept, places.mapped, places.copied
        self.file_bytes = places.mapped_bytes + places.copied_bytes
        self.mapped_bytes, self.host_bytes = places.mapped_bytes, places.host_bytes


@dataclass(frozen=True)
class _Places:
    """The decisions, equal for all files of a layout whose weights begin alike."""

    kept: Mapping[str, Kept]
    mapped: tuple[str, ...]
    copied: tuple[str, ...]
    mapped_bytes: int
    copied_bytes: int
    host_bytes: int


@lru_cache(maxsize=8)
def _places(recipe: Recipe, storage: Storage, alignment: int, data_start: int) -> _Places:
    packed = packable(recipe.skeleton.example) if _has_packed(recipe, storage) else frozenset()
    infos = {name: recipe.info(name) for name in recipe.skeleton.shapes}
    types = {name: _stored_type(info) for name, info in infos.items()}
    how = {
        name: kept(storage, recipe.sources[name].shape, types[name], packs=name in packed)
        for name, info in infos.items()
        if info.dtype not in BLOCK_TYPES
    }
    how |= _blocks(recipe, storage, infos)
    mapped = tuple(
        name
        for name, info in infos.items()
        if _is_mappable(data_start + info.start, types[name], how[name], alignment)
    )
    copied = sorted(infos.keys() - set(mapped), key=lambda name: infos[name].start)
    return _Places(
        kept=how,
        mapped=mapped,
        copied=tuple(copied),
        mapped_bytes=sum(infos[name].size_bytes for name in mapped),
        copied_bytes=sum(infos[name].size_bytes for name in copied),
        host_bytes=sum(aligned_bytes(how[name].shape, how[name].dtype) for name in copied),
    )


def _blocks(recipe: Recipe, storage: Storage, infos: Mapping[str, TensorInfo]) -> dict[str, Kept]:
    """Return how tensors of GGUF's types are kept."""
    found = {name: info for name, info in infos.items() if info.dtype in BLOCK_TYPES}
    layers = layer_weights(recipe.skeleton.example) if found else frozenset()
    return {
        name: kept_blocks(
            storage,
            info.dtype,
            recipe.sources[name].shape,
            info.size_bytes,
            packs=name in layers,
        )
        for name, info in found.items()
    }


def _stored_type(info: TensorInfo) -> torch.dtype | None:
    """Return the type of the numbers in the file; GGUF's blocks are bytes."""
    return torch.uint8 if info.dtype in BLOCK_TYPES else TORCH_DTYPES.get(info.dtype)


def _has_packed(recipe: Recipe, storage: Storage) -> bool:
    """Say whether any weight of a recipe is kept in another type than it is computed in."""
    if storage.packing:
        return True
    return any(recipe.info(name).dtype in _FLOAT8_NAMES for name in recipe.skeleton.shapes)


def _assemble(plan: LoadPlan, tensors: dict[str, torch.Tensor]) -> nn.Module:
    recipe = plan.recipe
    wanted = recipe.skeleton.tensors
    tensors |= {name: make() for name, make in recipe.buffers.items() if name in wanted}
    hollow = sorted(wanted - tensors.keys())
    if hollow:
        raise UnsupportedCheckpoint(
            f"{plan.header.path.name}: nothing fills {', '.join(hollow[:3])} of the "
            f"{recipe.role}; the installed diffusers or transformers is of an unknown version"
        )
    return recipe.skeleton.build(tensors)


def _is_mappable(place: int, stored: torch.dtype | None, how: Kept, alignment: int) -> bool:
    # On Windows a mapped file cannot be replaced or deleted while the server runs.
    if sys.platform == "win32" or stored != how.dtype or how.pack is not None:
        return False
    needed = how.dtype.itemsize if how.decode is not None else max(alignment, how.dtype.itemsize)
    return place % needed == 0


@lru_cache(maxsize=512)
def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in numbers, of a tensor whose numbers lie one behind the other."""
    strides: tuple[int, ...] = ()
    step = 1
    for size in reversed(shape):
        strides = (step, *strides)
        step *= max(size, 1)
    return strides


class _WeightFile:
    """A model file, open for reading weights."""

    def __init__(self, header: CheckpointHeader) -> None:
        self._header = header
        self._map: torch.Tensor | None = None
        self._numbers: dict[torch.dtype, torch.Tensor] = {}  # the mapping, by type
        self._buffer = bytearray()
        self._path: Path = header.path

    def __enter__(self) -> _WeightFile:
        try:
            self._file = self._path.open("rb", buffering=0)
        except OSError as error:
            raise MissingModel(f"{self._path} cannot be opened: {error.strerror}") from error
        if os.fstat(self._file.fileno()).st_size != self._header.file_bytes:
            self._file.close()
            raise self._changed()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def view(self, info: TensorInfo, how: Kept) -> torch.Tensor:
        """Return a tensor over the mapped file."""
        if info.size_bytes == 0:
            return torch.empty(how.shape, dtype=how.dtype)
        if self._map is None:
            # Private pages: a stray write would change this process's copy and neither the file
            # nor, as with a read-only mapping, end the process. Not Python's mmap, which keeps the
            # file open as long as the mapping lives.
            self._map = torch.from_file(
                str(self._path), shared=False, size=self._header.file_bytes, dtype=torch.uint8
            )
        numbers = self._numbers.get(how.dtype)
        if numbers is None:
            whole = self._map.numel() // how.dtype.itemsize * how.dtype.itemsize
            numbers = self._numbers[how.dtype] = self._map[:whole].view(how.dtype)
        place = (self._header.data_start + info.start) // how.dtype.itemsize
        return numbers.as_strided(how.shape, _strides(how.shape), place)

    def read(
        self,
        info: TensorInfo,
        source: Source,
        target: torch.Tensor,
        on_progress: Callable[[int], None],
        pack: Pack | None = None,
    ) -> None:
        """Read a tensor into `target`, converting piece by piece, or whole where it is packed."""
        stored = _stored_type(info)
        if stored is None:
            raise UnsupportedCheckpoint(
                f"{self._path.name}: {source.key} holds {info.dtype}, which is no type for weights"
            )
        if pack is None:
            self._read_pieces(info, stored, target.view(-1), on_progress)
        else:
            shape = (info.size_bytes,) if info.dtype in BLOCK_TYPES else source.shape
            whole = torch.empty(shape, dtype=stored)
            self._read_pieces(info, stored, whole.view(-1), on_progress)
            pack(whole, target)

    def _read_pieces(
        self,
        info: TensorInfo,
        stored: torch.dtype,
        flat: torch.Tensor,
        on_progress: Callable[[int], None],
    ) -> None:
        self._buffer = self._buffer or bytearray(BUFFER_BYTES)
        self._file.seek(self._header.data_start + info.start)
        done, left = 0, info.size_bytes
        while left:
            piece = memoryview(self._buffer)[: min(left, BUFFER_BYTES)]
            self._fill(piece)
            count = len(piece) // stored.itemsize
            convert(torch.frombuffer(piece, dtype=stored), flat[done : done + count])
            done, left = done + count, left - len(piece)
            on_progress(len(piece))

    def _fill(self, piece: memoryview) -> None:
        filled = 0
        while filled < len(piece):
            count = self._file.readinto(piece[filled:])
            if not count:
                raise self._changed()
            filled += count

    def _changed(self) -> CorruptCheckpoint:
        return CorruptCheckpoint(
            f"{self._path.name} changed while it was being loaded; is it still being written?"
        )
