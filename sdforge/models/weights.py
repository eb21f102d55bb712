"""Fill the networks that recipes describe: weights from a file into host memory.

Where the file holds the wanted type already, parameters are views of the mapped file and cost no
memory of their own; otherwise they are read piece by piece through a small buffer and converted on
the way into an arena. Either way there is never a second copy.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch
from torch import nn

from sdforge.core.errors import CorruptCheckpoint, MissingModel, UnsupportedCheckpoint
from sdforge.memory.arena import Arena, aligned_bytes
from sdforge.memory.component import Component
from sdforge.models.checkpoint import TensorInfo
from sdforge.models.families.base import Recipe, Source

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


def load_component(
    recipe: Recipe,
    dtype: torch.dtype,
    *,
    name: str,
    fingerprint: str,
    on_progress: Callable[[int], None],
) -> Component:
    """Read one network; its parameters will be of `dtype`, in eval mode and without gradients.

    Args:
        recipe: the module and where its tensors come from; the module is used, not copied.
        dtype: type of numbers to keep.
        name: of the checkpoint, for messages and reports.
        fingerprint: what the component is equal by.
        on_progress: called with the bytes of the file that are done since the last call.

    Raises:
        MissingModel: the file is gone.
        CorruptCheckpoint: the file became shorter since its header was read.
        UnsupportedCheckpoint: it holds numbers of a type that cannot be converted.
    """
    sources = {key: recipe.sources[key] for key in recipe.module.state_dict()}
    with _WeightFile(recipe) as file:
        mapped = {key for key, source in sources.items() if file.can_map(source, dtype)}
        copied = [key for key in sources if key not in mapped]
        arena = Arena(sum(aligned_bytes(sources[key].shape, dtype) for key in copied))
        try:
            tensors = {key: file.view(sources[key], dtype) for key in mapped}
            on_progress(sum(file.info(sources[key]).size_bytes for key in mapped))
            for key in sorted(copied, key=lambda key: file.info(sources[key]).start):
                tensors[key] = arena.allocate(sources[key].shape, dtype)
                file.read(sources[key], tensors[key], on_progress)
            _assign(recipe, tensors)
            return Component(
                role=recipe.role,
                name=name,
                fingerprint=fingerprint,
                module=recipe.module,
                arenas=(arena,) if copied else (),
            )
        except BaseException:
            arena.release()
            raise


def host_bytes(recipe: Recipe, dtype: torch.dtype) -> int:
    """Return the memory that loading takes beyond the file itself, in bytes."""
    return sum(
        aligned_bytes(source.shape, dtype)
        for source in (recipe.sources[key] for key in recipe.module.state_dict())
        if not _is_mappable(recipe, source, dtype)
    )


def _assign(recipe: Recipe, tensors: dict[str, torch.Tensor]) -> None:
    module = recipe.module.requires_grad_(False).eval()
    module.load_state_dict(tensors, strict=True, assign=True)
    for name, make in recipe.buffers.items():
        owner, _, attribute = name.rpartition(".")
        parent = module.get_submodule(owner)
        if attribute in parent._buffers:
            parent.register_buffer(attribute, make(), persistent=False)
    hollow = [name for name, tensor in _all_tensors(module) if tensor.is_meta]
    if hollow:
        raise UnsupportedCheckpoint(
            f"{recipe.header.path.name}: nothing fills {', '.join(hollow[:3])} of the "
            f"{recipe.role}; the installed diffusers or transformers is of an unknown version"
        )


def _all_tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _is_mappable(recipe: Recipe, source: Source, dtype: torch.dtype) -> bool:
    # On Windows a mapped file cannot be replaced or deleted while the server runs.
    if sys.platform == "win32":
        return False
    info = recipe.header.tensors[source.key]
    place = recipe.header.data_start + info.start
    return TORCH_DTYPES.get(info.dtype) == dtype and place % dtype.itemsize == 0


class _WeightFile:
    """The open file of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._header = recipe.header
        self._map: mmap.mmap | None = None
        self._buffer = bytearray()
        self._path: Path = recipe.header.path

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

    def info(self, source: Source) -> TensorInfo:
        """Return where a source lies."""
        return self._header.tensors[source.key]

    def can_map(self, source: Source, dtype: torch.dtype) -> bool:
        """Say whether a view of the file can serve as the parameter."""
        return _is_mappable(self._recipe, source, dtype)

    def view(self, source: Source, dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor over the mapped file."""
        info = self.info(source)
        if info.size_bytes == 0:
            return torch.empty(source.shape, dtype=dtype)
        if self._map is None:
            # Private pages: a stray write would change this process's copy and neither the file
            # nor, as with a read-only mapping, end the process.
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        return torch.frombuffer(
            self._map,
            dtype=dtype,
            count=info.size_bytes // dtype.itemsize,
            offset=self._header.data_start + info.start,
        ).view(source.shape)

    def read(
        self, source: Source, target: torch.Tensor, on_progress: Callable[[int], None]
    ) -> None:
        """Read a tensor into `target`, converting piece by piece."""
        info = self.info(source)
        stored = TORCH_DTYPES.get(info.dtype)
        if stored is None:
            raise UnsupportedCheckpoint(
                f"{self._path.name}: {source.key} holds {info.dtype}, which is no type for weights"
            )
        self._buffer = self._buffer or bytearray(BUFFER_BYTES)
        self._file.seek(self._header.data_start + info.start)
        flat = target.view(-1)
        done, left = 0, info.size_bytes
        while left:
            piece = memoryview(self._buffer)[: min(left, BUFFER_BYTES)]
            self._fill(piece)
            count = len(piece) // stored.itemsize
            flat[done : done + count].copy_(torch.frombuffer(piece, dtype=stored))
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
