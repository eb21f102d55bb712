"""Reading the header of a safetensors file: names, shapes and places of tensors, never weights.

A header is 8 bytes of length, that much JSON, then the tensors. Everything in it is checked against
the size of the file before anyone relies on it, so that reading weights later cannot run astray.
`detect.py` says what a header describes; `weights.py` reads the tensors.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from sdforge.core.errors import CorruptCheckpoint, MissingModel, UnsupportedCheckpoint

# The limit of the safetensors library itself; the largest headers in use are some 0.5 MB.
MAX_HEADER_BYTES = 100_000_000
_MOST_DIMENSIONS = 64
DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
# What people save under the name of a model by mistake: first bytes → what it is.
_IMPOSTORS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was never downloaded"),
    (b"<", "a web page: the download was answered by a page, not by the file"),
    (b"{", "JSON text, not a model"),
    (b"PK\x03\x04", "a zip or PyTorch (.ckpt) file"),
    (b"\x80\x02", "a Python pickle (.ckpt) file"),
    (b"GGUF", "a GGUF file"),
)
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file; `start` and `end` count bytes from `CheckpointHeader.data_start`."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """Bytes that it takes up in the file."""
        return self.end - self.start


@dataclass(frozen=True)
class CheckpointHeader:
    """The checked header of one file."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int
    file_bytes: int

    def shape(self, key: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor, or None when the file has none of that name."""
        info = self.tensors.get(key)
        return info.shape if info else None

    def has_prefix(self, prefix: str) -> bool:
        """Say whether any tensor's name begins with `prefix`."""
        return any(key.startswith(prefix) for key in self.tensors)

    def under(self, prefix: str) -> dict[str, str]:
        """Return the names below `prefix`: without it → in full."""
        return {key[len(prefix) :]: key for key in self.tensors if key.startswith(prefix)}


def read_header(path: Path) -> CheckpointHeader:
    """Read and check the header of a safetensors file.

    Raises:
        MissingModel: there is no such file, or it cannot be opened.
        UnsupportedCheckpoint: a pickle or GGUF file, going by its name.
        CorruptCheckpoint: damaged, truncated, or not what its name says.
    """
    _refuse_other_formats(path)
    try:
        with path.open("rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            header, data_start = _read_json(path, file, file_bytes)
    except OSError as error:
        raise MissingModel(f"{path} cannot be opened: {error.strerror or error}") from error
    metadata = header.pop("__metadata__", None)
    data_bytes = file_bytes - data_start
    tensors = {name: _tensor(path, name, entry) for name, entry in header.items()}
    _check_places(path, tensors, data_bytes, file_bytes)
    return CheckpointHeader(
        path=path,
        tensors=tensors,
        metadata=_strings(metadata),
        data_start=data_start,
        file_bytes=file_bytes,
    )


def _refuse_other_formats(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise UnsupportedCheckpoint(
            f"{path.name} is a pickle, which can run any code when it is opened; "
            "use the .safetensors version of this model"
        )
    if suffix == ".gguf":
        raise UnsupportedCheckpoint(f"{path.name}: GGUF files are not supported in this version")


def _read_json(path: Path, file: BinaryIO, file_bytes: int) -> tuple[dict[str, Any], int]:
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
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(
            f"{path.name} is no safetensors file: its header is not JSON ({_brief(error)})"
        ) from error
    if not isinstance(header, dict):
        raise CorruptCheckpoint(f"{path.name} is no safetensors file: its header is no JSON object")
    return header, 8 + length


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


def _tensor(path: Path, name: str, entry: Any) -> TensorInfo:
    what = f"{path.name} is damaged: tensor {name[:200]!r}"
    if not isinstance(entry, dict):
        raise CorruptCheckpoint(f"{what} is not described by an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise CorruptCheckpoint(f"{what} has an unknown type of numbers, {_brief(dtype)}")
    if not _is_counts(shape):
        raise CorruptCheckpoint(f"{what} has no valid shape: {_brief(shape)}")
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CorruptCheckpoint(f"{what} has no valid place in the file: {_brief(offsets)}")
    info = TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])
    wanted = -(-math.prod(shape) * DTYPE_BITS[dtype] // 8)
    if info.size_bytes != wanted:
        raise CorruptCheckpoint(
            f"{what} takes {info.size_bytes} bytes, but {dtype} of shape {_brief(list(shape))} "
            f"takes {_brief(wanted)}"
        )
    return info


def _check_places(
    path: Path, tensors: Mapping[str, TensorInfo], data_bytes: int, file_bytes: int
) -> None:
    last_end, last_name = 0, ""
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.end > data_bytes:
            missing = max(other.end for other in tensors.values()) - data_bytes
            raise CorruptCheckpoint(
                f"{path.name} is truncated: {missing} bytes are missing at the end of its "
                f"{file_bytes} (an incomplete download or copy?)"
            )
        if info.start < last_end and info.size_bytes:
            raise CorruptCheckpoint(
                f"{path.name} is damaged: tensors {last_name[:200]!r} and {name[:200]!r} overlap"
            )
        if info.end > last_end:
            last_end, last_name = info.end, name


def _is_counts(value: object) -> TypeGuard[list[int]]:
    # bool is an int in Python; JSON's true is no number. The limits keep products small.
    return (
        isinstance(value, list)
        and len(value) <= _MOST_DIMENSIONS
        and all(type(item) is int and 0 <= item < 2**63 for item in value)
    )


def _strings(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict):
        return {}
    return dict(_string_items(metadata))


def _string_items(metadata: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    for key, value in metadata.items():
        if isinstance(value, str):
            yield str(key), value


def _brief(value: object, limit: int = 80) -> str:
    try:
        text = str(value)
    except ValueError:  # an integer with too many digits to print
        text = "(a huge number)"
    return text if len(text) <= limit else text[: limit - 1] + "…"
