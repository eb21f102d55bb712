"""Reading the header of a model file: names, shapes and places of tensors, never weights.

A safetensors header is 8 bytes of length, that much JSON, then the tensors. Everything in it is
checked against the size of the file before anyone relies on it, so that reading weights later
cannot run astray. `layout.py` has the tensors' part of it, `formats/` other kinds of files;
`detect.py` says what a header describes, `weights.py` reads the tensors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sdforge.core.errors import CorruptCheckpoint, MissingModel, UnsupportedCheckpoint
from sdforge.models.layout import Layout, TensorInfo, read_layout

# The limit of the safetensors library itself; the largest headers in use are some 0.5 MB.
MAX_HEADER_BYTES = 100_000_000
# What people save under the name of a model by mistake: first bytes → what it is.
_IMPOSTORS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was never downloaded"),
    (b"<", "a web page: the download was answered by a page, not by the file"),
    (b"{", "JSON text, not a model"),
    (b"PK\x03\x04", "a zip or PyTorch file; if it is a model, its name should end in .ckpt"),
    (b"\x80\x02", "a Python pickle; if it is a model, its name should end in .ckpt"),
    (b"GGUF", "a GGUF file"),
)
PICKLES = (".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Piece:
    """One of the files that a header describes; its first byte is counted as `start`."""

    path: Path
    start: int
    file_bytes: int


@dataclass(frozen=True)
class CheckpointHeader:
    """The checked header of a file; files that were saved alike share a `layout`.

    A folder in the layout of diffusers has one header too, over its files laid end to end: `path`
    is the folder then, and `parts` are the files.
    """

    path: Path
    layout: Layout
    metadata: Mapping[str, str]
    data_start: int
    file_bytes: int
    parts: tuple[Piece, ...] = ()

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The files, in order of their places."""
        return self.parts or (Piece(self.path, 0, self.file_bytes),)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """All tensors by name; their places count from `data_start`."""
        return self.layout.tensors

    def shape(self, key: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor, or None when the file has none of that name."""
        info = self.tensors.get(key)
        return info.shape if info else None

    def has_prefix(self, prefix: str) -> bool:
        """Say whether any tensor's name begins with `prefix`."""
        return self.layout.has_prefix(prefix)

    def under(self, prefix: str) -> Mapping[str, str]:
        """Return the names below `prefix`: without it → in full."""
        return self.layout.under(prefix)


def read_header(path: Path, *, whole: bool = False) -> CheckpointHeader:
    """Read and check the header of a model file, which its name tells the format of, or folder.

    With `whole`, a pickle may be of a whole network, classes and all, and not of tensors alone.

    Raises:
        MissingModel: there is no such file, or it cannot be opened.
        UnsupportedCheckpoint: a pickle that is not harmless.
        CorruptCheckpoint: damaged, truncated, or not what its name says.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        from sdforge.models.formats.folder import read_folder

        return read_folder(path)
    try:
        with path.open("rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            if suffix == ".gguf":
                return _read_gguf(path, file, file_bytes)
            if suffix in PICKLES and not _is_safetensors(file, file_bytes):
                return _read_pickle(path, file, file_bytes, whole=whole)
            (layout, metadata), data_start = _read(path, file, file_bytes)
            missing = layout.data_bytes - (file_bytes - data_start)
            if missing <= 0:
                layout = _with_four_bit(path, file, layout, data_start)
    except OSError as error:
        raise MissingModel(f"{path} cannot be opened: {error.strerror or error}") from error
    if missing > 0:
        raise CorruptCheckpoint(
            f"{path.name} is truncated: {missing} bytes are missing at the end of its "
            f"{file_bytes} (an incomplete download or copy?)"
        )
    return CheckpointHeader(
        path=path,
        layout=layout,
        metadata=metadata,
        data_start=data_start,
        file_bytes=file_bytes,
    )


def _with_four_bit(path: Path, file: BinaryIO, layout: Layout, data_start: int) -> Layout:
    from sdforge.models.formats.bitsandbytes import has_four_bit, with_four_bit

    if not has_four_bit(layout):
        return layout
    try:
        return with_four_bit(file, layout, data_start)
    except ValueError as fault:
        raise CorruptCheckpoint(f"{path.name} {fault}") from fault


def _is_safetensors(file: BinaryIO, file_bytes: int) -> bool:
    """Tell whether a file is one under another name: `.bin` and `.pt` are given to many things."""
    start = file.read(9)
    file.seek(0)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= file_bytes - 8


def _read_pickle(path: Path, file: BinaryIO, file_bytes: int, *, whole: bool) -> CheckpointHeader:
    from sdforge.models.formats.pickled_modules import WHOLE_NETWORK
    from sdforge.models.formats.pickles import read_pickled

    start = file.read(32)
    is_pickle = start[:4] == b"PK\x03\x04" or start[:1] == b"\x80"
    if not is_pickle:
        raise CorruptCheckpoint(f"{path.name} {_explain_start(start, 0, file_bytes)}")
    try:
        found = read_pickled(path, file, file_bytes, WHOLE_NETWORK if whole else None)
    except ValueError as fault:
        kind = UnsupportedCheckpoint if "refused" in str(fault) else CorruptCheckpoint
        raise kind(f"{path.name} {fault}") from fault
    return CheckpointHeader(
        path=path,
        layout=found.layout,
        metadata=found.metadata,
        data_start=0,
        file_bytes=file_bytes,
    )


def _read_gguf(path: Path, file: BinaryIO, file_bytes: int) -> CheckpointHeader:
    from sdforge.models.formats.gguf import read_gguf

    try:
        found = read_gguf(file, file_bytes)
    except ValueError as fault:
        raise CorruptCheckpoint(f"{path.name} {fault}") from fault
    return CheckpointHeader(
        path=path,
        layout=found.layout,
        metadata=found.metadata,
        data_start=found.data_start,
        file_bytes=file_bytes,
    )


def _read(
    path: Path, file: BinaryIO, file_bytes: int
) -> tuple[tuple[Layout, Mapping[str, str]], int]:
    start = file.read(32)
    if len(start) < 8:
        raise CorruptCheckpoint(f"{path.name} holds no model: it has only {file_bytes} bytes")
    length = int.from_bytes(start[:8], "little")
    if length > file_bytes - 8 or length > MAX_HEADER_BYTES:
        raise CorruptCheckpoint(f"{path.name} {_explain_start(start, length, file_bytes)}")
    file.seek(8)
    text = file.read(length)
    if len(text) < length:
        raise CorruptCheckpoint(f"{path.name} shrank while it was being read")
    try:
        return read_layout(text), 8 + length
    except ValueError as fault:
        raise CorruptCheckpoint(f"{path.name} {fault}") from fault


def _explain_start(start: bytes, length: int, file_bytes: int) -> str:
    text = start.lstrip()
    for magic, meaning in _IMPOSTORS:
        if text.startswith(magic):
            return f"is no safetensors file but {meaning}"
    if start.isascii() and start.decode("ascii").isprintable():
        return "is no safetensors file but text"
    if length <= MAX_HEADER_BYTES:
        return f"is truncated: its header takes {length} bytes and the file has {file_bytes}"
    return f"is damaged or no safetensors file: its header would take {length} bytes"
