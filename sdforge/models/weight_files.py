"""The files that weights are read from: mapped where they lie, or read through a small buffer.

A header describes one file, or several laid end to end (a folder in the layout of diffusers); a
tensor always lies in one of them. `weights.py` decides what is mapped and what is read.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import BinaryIO, NamedTuple

import torch

from sdforge.core.errors import CorruptCheckpoint, MissingModel, UnsupportedCheckpoint
from sdforge.models.checkpoint import CheckpointHeader, Piece
from sdforge.models.families.base import Source
from sdforge.models.formats.ggml_types import BLOCK_TYPES
from sdforge.models.layout import TensorInfo
from sdforge.models.quant import Kept, Pack, convert

# Large enough to read at full speed, small enough to stay in a core's cache until it is converted.
BUFFER_BYTES = 1024 * 1024
TORCH_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def stored_type(info: TensorInfo) -> torch.dtype | None:
    """Return the type of a tensor's numbers in the file; GGUF's blocks are bytes."""
    return torch.uint8 if info.dtype in BLOCK_TYPES else TORCH_DTYPES.get(info.dtype)


class View(NamedTuple):
    """A tensor that is used where it lies; equal for all files of a layout."""

    name: str
    info: TensorInfo
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, name: str, info: TensorInfo, how: Kept) -> View:
        """Return how a tensor is seen that is kept as it is in the file."""
        return cls(name, info, how.dtype, how.shape, _strides(how.shape))


class WeightFiles:
    """The files of a header, open for reading weights."""

    def __init__(self, header: CheckpointHeader) -> None:
        """Open nothing yet."""
        self._header = header
        self._files: dict[int, _OpenFile] = {}  # by number of the piece
        self._pieces = header.pieces
        self._starts = [piece.start for piece in self._pieces]
        self._buffer = bytearray()

    def __enter__(self) -> WeightFiles:
        """Return this; files are opened when tensors in them are asked for."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for opened in self._files.values():
            opened.file.close()

    # Half the time of each view is autograd's notes on it.
    @torch.no_grad()
    def views(self, wanted: Iterable[View]) -> dict[str, torch.Tensor]:
        """Return tensors over the mapped files, by name.

        Raises:
            MissingModel, CorruptCheckpoint: the file is gone, or changed since its header was read.
        """
        found = {}
        file: _OpenFile | None = None
        numbers = torch.empty(0)
        first = end = item_bytes = 0
        for name, info, dtype, shape, strides in wanted:
            start = info.start
            if start == info.end:
                found[name] = torch.empty(shape, dtype=dtype)
                continue
            # Neighbours nearly always lie in one file and are of one type.
            if file is None or numbers.dtype is not dtype or not first <= start < end:
                file, place = self._find(info)
                numbers, item_bytes = file.numbers(dtype), dtype.itemsize
                first = start - place
                end = first + file.size
            found[name] = numbers.as_strided(shape, strides, (start - first) // item_bytes)
        return found

    def read(
        self,
        info: TensorInfo,
        source: Source,
        target: torch.Tensor,
        on_progress: Callable[[int], None],
        pack: Pack | None = None,
    ) -> None:
        """Read a tensor into `target`, converting piece by piece, or whole where it is packed.

        Raises:
            UnsupportedCheckpoint: it holds numbers of a type that cannot be converted.
            MissingModel, CorruptCheckpoint: the file is gone, or changed since its header was read.
        """
        stored = stored_type(info)
        if stored is None:
            raise UnsupportedCheckpoint(
                f"{self._header.path.name}: {source.key} holds {info.dtype}, which is no type for "
                "weights"
            )
        if pack is None:
            self._read_pieces(info, stored, target.view(-1), on_progress)
        else:
            shape = (info.size_bytes,) if info.dtype in BLOCK_TYPES else source.shape
            whole = torch.empty(shape, dtype=stored)
            self._read_pieces(info, stored, whole.view(-1), on_progress)
            pack(whole, target)

    def number(self, source: Source) -> float:
        """Return the one number of a tensor; raises as `read` does."""
        target = torch.empty((1,))
        self.read(self._header.tensors[source.key], source, target, lambda count: None)
        return float(target)

    def copy(self, info: TensorInfo, put: Callable[[memoryview], None]) -> None:
        """Hand a tensor's bytes to `put` as they are, piece by piece.

        Raises:
            MissingModel, CorruptCheckpoint: the file is gone, or changed since its header was read.
        """
        if info.size_bytes == 0:
            return
        self._buffer = self._buffer or bytearray(BUFFER_BYTES)
        opened, place = self._find(info)
        opened.file.seek(place)
        left = info.size_bytes
        while left:
            piece = memoryview(self._buffer)[: min(left, BUFFER_BYTES)]
            opened.fill(piece)
            put(piece)
            left -= len(piece)

    def _read_pieces(
        self,
        info: TensorInfo,
        stored: torch.dtype,
        flat: torch.Tensor,
        on_progress: Callable[[int], None],
    ) -> None:
        if info.size_bytes == 0:
            return
        self._buffer = self._buffer or bytearray(BUFFER_BYTES)
        opened, place = self._find(info)
        opened.file.seek(place)
        done, left = 0, info.size_bytes
        while left:
            piece = memoryview(self._buffer)[: min(left, BUFFER_BYTES)]
            opened.fill(piece)
            count = len(piece) // stored.itemsize
            convert(torch.frombuffer(piece, dtype=stored), flat[done : done + count])
            done, left = done + count, left - len(piece)
            on_progress(len(piece))

    def _find(self, info: TensorInfo) -> tuple[_OpenFile, int]:
        """Return the file that holds a tensor, and its place in it."""
        place = self._header.data_start + info.start
        number = bisect_right(self._starts, place) - 1
        opened = self._files.get(number)
        if opened is None:
            opened = self._files[number] = _OpenFile(self._pieces[number])
        return opened, place - self._starts[number]


class _OpenFile:
    """One of the files."""

    def __init__(self, piece: Piece) -> None:
        self._piece = piece
        self._map: torch.Tensor | None = None
        self._numbers: dict[torch.dtype, torch.Tensor] = {}  # the mapping, by type
        try:
            self.file: BinaryIO = piece.path.open("rb", buffering=0)
        except OSError as error:
            raise MissingModel(f"{piece.path} cannot be opened: {error.strerror}") from error
        if os.fstat(self.file.fileno()).st_size != piece.file_bytes:
            self.file.close()
            raise self._changed()

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self._piece.file_bytes

    def numbers(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the whole file, mapped, as numbers of a type."""
        if self._map is None:
            # Private pages: a stray write would change this process's copy and neither the file
            # nor, as with a read-only mapping, end the process. Not Python's mmap, which keeps the
            # file open as long as the mapping lives.
            self._map = torch.from_file(
                str(self._piece.path),
                shared=False,
                size=self._piece.file_bytes,
                dtype=torch.uint8,
            )
        found = self._numbers.get(dtype)
        if found is None:
            whole = self._map.numel() // dtype.itemsize * dtype.itemsize
            found = self._numbers[dtype] = self._map[:whole].view(dtype)
        return found

    def fill(self, piece: memoryview) -> None:
        """Fill a buffer from where the file stands."""
        filled = 0
        while filled < len(piece):
            count = self.file.readinto(piece[filled:])  # type: ignore[attr-defined]
            if not count:
                raise self._changed()
            filled += count

    def _changed(self) -> CorruptCheckpoint:
        return CorruptCheckpoint(
            f"{self._piece.path.name} changed while it was being loaded; is it still being written?"
        )


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in numbers, of a tensor whose numbers lie one behind the other."""
    strides: tuple[int, ...] = ()
    step = 1
    for size in reversed(shape):
        strides = (step, *strides)
        step *= max(size, 1)
    return strides
