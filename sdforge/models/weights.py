"""Fill the networks that recipes describe: weights from a file into host memory.

Where the file holds what is wanted, at a place that suits, parameters are views of the mapped file
and cost no memory of their own; otherwise they are read piece by piece through a small buffer and
converted on the way into an arena. Either way there is never a second copy. `quant.py` says in
which type each is kept.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.memory.arena import ALIGNMENT, Arena, aligned_bytes
from sdforge.memory.component import Component
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Recipe
from sdforge.models.formats.ggml_types import BLOCK_TYPES
from sdforge.models.four_bit import read_four_bit
from sdforge.models.layout import TensorInfo
from sdforge.models.quant import (
    Kept,
    Scaled,
    Storage,
    kept,
    kept_blocks,
    layer_weights,
    packable,
)
from sdforge.models.scales import SCALE_ENDINGS, scales_of
from sdforge.models.skeleton import Built
from sdforge.models.weight_files import View, WeightFiles, stored_type

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
    with WeightFiles(plan.header) as file:
        arena = Arena(plan.host_bytes)
        try:
            tensors = file.views(plan.mapped)
            on_progress(plan.mapped_bytes)
            for key in plan.copied:
                how = plan.kept[key]
                tensors[key] = arena.allocate(how.shape, how.dtype)
                info, source = plan.infos[key], plan.recipe.sources[key]
                if info.four_bit is None:
                    file.read(info, source, tensors[key], on_progress, how.pack)
                    continue
                whole = plan.recipe.layout.tensors[source.key]
                first = source.first * math.prod(whole.shape[1:])
                read_four_bit(file, whole, first, tensors[key], source.shape, how.pack)
                on_progress(info.size_bytes)
            decoders = {key: how.decode for key, how in plan.kept.items() if how.decode}
            for key, source in scales_of(plan.recipe).items():
                scale = file.number(source)
                if key in decoders:
                    decoders[key] = Scaled(decoders[key], scale)
                else:
                    tensors[key].mul_(scale)
            built = _assemble(plan, tensors)
            return Component(
                role=plan.recipe.role,
                name=name,
                fingerprint=fingerprint,
                module=built.module,
                arenas=(arena,) if plan.copied else (),
                decoders=decoders,
                tensors=built.tensors,
            )
        except BaseException:
            arena.release()
            raise


def warm_mapped(plan: LoadPlan, on_progress: Callable[[int], None]) -> None:
    """Read what a component maps, so that its pages are in the system's cache of files.

    Raises:
        MissingModel, CorruptCheckpoint: the file is gone, or changed since its header was read.
    """
    with WeightFiles(plan.header) as file:
        for info in sorted((view.info for view in plan.mapped), key=lambda info: info.start):
            file.copy(info, lambda piece: on_progress(len(piece)))


class LoadPlan:
    """How each tensor of a component will lie in memory, known before anything is read.

    `alignment` is what a mapped tensor needs that is computed with where it lies: CPU kernels round
    differently on memory that is not aligned as an allocator's is, by one level of a picture. 1
    where weights are copied to a device first.
    """

    def __init__(
        self, recipe: Recipe, header: CheckpointHeader, storage: Storage, alignment: int
    ) -> None:
        """Decide for every tensor of a file of the recipe's layout; reads nothing.

        Raises:
            UnsupportedCheckpoint: weights are stored in a way that would be misread.
        """
        unusable = _packed_otherwise(recipe)
        if unusable:
            raise UnsupportedCheckpoint(
                f"{header.path.name} holds {unusable}, which this version cannot load; take the "
                "fp16, fp8 or GGUF file of this model"
            )
        self.recipe = recipe
        self.header = header
        places = _places(recipe, storage, alignment, header.data_start % _MOST_ALIGNMENT)
        self.infos, self.kept = places.infos, places.kept
        self.mapped, self.copied = places.mapped, places.copied
        self.file_bytes = places.mapped_bytes + places.copied_bytes
        self.mapped_bytes, self.host_bytes = places.mapped_bytes, places.host_bytes


@lru_cache(maxsize=8)
def _packed_otherwise(recipe: Recipe) -> str:
    """Name a weight whose numbers mean nothing without others that this version cannot use."""
    if not any(name.endswith(_BESIDE_ENDINGS) for name in recipe.layout.tensors):
        return ""
    known = {source.key for source in scales_of(recipe).values()}
    for source in recipe.sources.values():
        lead = source.key.removesuffix("weight")
        for ending, kind in _BESIDE.items():
            if lead + ending in recipe.layout.tensors and lead + ending not in known:
                return f"{source.key} as {kind}"
    return ""


# What lies beside a weight that is not plain numbers, by the end of its name.
_BESIDE = {
    **dict.fromkeys(SCALE_ENDINGS, "numbers with a scale for each row"),
    "weight.absmax": "bitsandbytes NF4 or FP4",
    "weight.SCB": "bitsandbytes int8",
    "SCB": "bitsandbytes int8",
}
_BESIDE_ENDINGS = tuple(_BESIDE)


@dataclass(frozen=True)
class _Places:
    """The decisions, equal for all files of a layout whose weights begin alike."""

    infos: Mapping[str, TensorInfo]
    kept: Mapping[str, Kept]
    mapped: tuple[View, ...]
    copied: tuple[str, ...]
    mapped_bytes: int
    copied_bytes: int
    host_bytes: int


@lru_cache(maxsize=8)
def _places(recipe: Recipe, storage: Storage, alignment: int, data_start: int) -> _Places:
    packed = packable(recipe.skeleton.example) if _has_packed(recipe, storage) else frozenset()
    infos = {name: recipe.info(name) for name in recipe.skeleton.shapes}
    types = {name: stored_type(info) for name, info in infos.items()}
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
        infos=infos,
        kept=how,
        mapped=tuple(View.of(name, infos[name], how[name]) for name in mapped),
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


def _has_packed(recipe: Recipe, storage: Storage) -> bool:
    """Say whether any weight of a recipe is kept in another type than it is computed in."""
    if storage.packing:
        return True
    return any(recipe.info(name).dtype in _FLOAT8_NAMES for name in recipe.skeleton.shapes)


def _assemble(plan: LoadPlan, tensors: dict[str, torch.Tensor]) -> Built:
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
