"""Mixes tensors piece by piece and writes them behind a safetensors header.

What is in memory at a time is a few million numbers, however large the files are. The new file
appears under its name when it is whole, or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import torch

from sdforge.core.errors import StorageError
from sdforge.core.merge import WEIGHTED_SUM
from sdforge.models.families.base import Source
from sdforge.models.layout import TensorInfo
from sdforge.models.merging.plan import MergePlan, Piece
from sdforge.models.quant import convert
from sdforge.models.weight_files import TORCH_DTYPES, WeightFiles

_NUMBERS_AT_ONCE = 2 * 1024 * 1024
# Tensors whose sizes are multiples of it then lie where a CPU can compute with them as mapped.
_HEADER_ALIGNMENT = 64

Progress = Callable[[int], None]


def write_merged(
    plan: MergePlan, metadata: Mapping[str, str], target: Path, on_progress: Progress
) -> str:
    """Write the new checkpoint and return its SHA-256.

    Args:
        plan: what is written, and from where.
        metadata: of the new file.
        target: the file; one that is there is replaced at the end.
        on_progress: called with the bytes written since the last call; may raise to stop.

    Raises:
        MissingModel, CorruptCheckpoint: a file is gone or changed since it was looked at.
        StorageError: the disk is full or the folder cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("xb") as file:
            sha256 = _write(plan, metadata, file, on_progress)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise StorageError(f"could not write {target}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return sha256


def _write(
    plan: MergePlan, metadata: Mapping[str, str], file: BinaryIO, on_progress: Progress
) -> str:
    digest = hashlib.sha256()

    def put(data: bytes | memoryview) -> None:
        digest.update(data)
        file.write(data)
        on_progress(len(data))

    put(header_bytes(plan.pieces, metadata))
    with ExitStack() as stack:
        files = [stack.enter_context(WeightFiles(header)) for header in plan.headers]
        for piece in plan.pieces:
            _, first = piece.sources[0]
            if len(piece.sources) == 1 and first.dtype == piece.dtype:
                files[piece.sources[0][0]].copy(first, put)
                continue
            for numbers in _mixed(plan, piece, files):
                saved = torch.empty(numbers.numel(), dtype=TORCH_DTYPES[piece.dtype])
                _saturate(numbers, saved)
                put(saved.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def header_bytes(pieces: Sequence[Piece], metadata: Mapping[str, str]) -> bytes:
    """Return the header of a safetensors file, its length in front, padded with spaces."""
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    for piece in pieces:
        place = [piece.start, piece.end]
        table[piece.name] = {
            "dtype": piece.dtype, "shape": list(piece.shape), "data_offsets": place
        }  # fmt: skip
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % _HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _mixed(plan: MergePlan, piece: Piece, files: Sequence[WeightFiles]) -> Iterator[torch.Tensor]:
    """Yield the numbers of a piece, flat, some at a time, in the type they are computed in."""
    infos = [info for _, info in piece.sources]
    compute = torch.float64 if any(info.dtype == "F64" for info in infos) else torch.float32
    if piece.is_partial:
        yield _on_first_channels(plan, piece, files, compute)
        return
    count = math.prod(infos[0].shape)
    for start in range(0, count, _NUMBERS_AT_ONCE):
        stop = min(start + _NUMBERS_AT_ONCE, count)
        parts = [
            _read(files[place], piece.name, _part(info, start, stop), compute)
            for place, info in piece.sources
        ]
        yield mix(parts, plan.merge.method, plan.merge.multiplier)


def _on_first_channels(
    plan: MergePlan, piece: Piece, files: Sequence[WeightFiles], compute: torch.dtype
) -> torch.Tensor:
    """Return an input layer whose first channels are mixed and whose others are A's."""
    whole, *others = (
        _read(files[place], piece.name, info, compute).view(info.shape)
        for place, info in piece.sources
    )
    channels = others[0].shape[1]
    parts = [whole[:, :channels].contiguous(), *others]
    whole[:, :channels] = mix(parts, plan.merge.method, plan.merge.multiplier)
    return whole.view(-1)


def mix(parts: Sequence[torch.Tensor], method: str, multiplier: float) -> torch.Tensor:
    """Return A·(1 − M) + B·M, or A + (B − C)·M; one tensor alone stays. The first is overwritten.

    Args:
        parts: A, B and C, of one shape and type, as far as the method uses them.
        method: one of `core.merge.METHODS`.
        multiplier: M.
    """
    if len(parts) == 1:
        return parts[0]
    if method == WEIGHTED_SUM:
        return parts[0].mul_(1 - multiplier).add_(parts[1], alpha=multiplier)
    return parts[0].add_(parts[1].sub_(parts[2]), alpha=multiplier)


def _part(info: TensorInfo, start: int, stop: int) -> TensorInfo:
    """Return some of a tensor's numbers as a tensor of their own."""
    size = TORCH_DTYPES[info.dtype].itemsize
    return TensorInfo(
        info.dtype, (stop - start,), info.start + start * size, info.start + stop * size
    )


def _read(file: WeightFiles, name: str, info: TensorInfo, dtype: torch.dtype) -> torch.Tensor:
    numbers = torch.empty(math.prod(info.shape), dtype=dtype)
    file.read(info, Source(name, info.shape), numbers, lambda count: None)
    return numbers


def _saturate(numbers: torch.Tensor, target: torch.Tensor) -> None:
    """Write numbers in another type; what fp16 cannot hold becomes the most it can."""
    if target.dtype == torch.float16:
        most = torch.finfo(torch.float16).max
        numbers = numbers.clamp(-most, most)
    convert(numbers, target)
