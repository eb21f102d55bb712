"""PyTorch's files (.ckpt, .pt, .pth, .bin) as headers: where each tensor's numbers lie in the file.

Such a file is a pickle that describes tensors, beside their numbers. The description is read by
`pickle_machine.py`, which cannot run anything; the numbers are then read, or mapped, as those of
safetensors files are. Names that no model file needs are refused with the name. Two layouts: the
zip archive that PyTorch has written since 1.6, and the row of pickles before that.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sdforge.models.formats.archive import ArchiveFault, Member, members
from sdforge.models.formats.pickle_machine import (
    Call,
    Global,
    Persistent,
    PickleFault,
    PickleMachine,
)
from sdforge.models.layout import DTYPE_BITS, Layout, TensorInfo

_MOST_DESCRIPTION_BYTES = 32 * 1024 * 1024
_MOST_TENSORS, _MOST_DEPTH, _MOST_DIMENSIONS = 100_000, 8, 64
_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES: Mapping[str, str] = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL", "UntypedStorage": "U8",
}  # fmt: skip
_TYPES: Mapping[str, str] = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
    "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
_TENSOR = frozenset({"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"})
_TYPED_TENSOR = "torch._utils._rebuild_tensor_v3"
_PARAMETER = frozenset(
    {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
)
# What training tools leave in checkpoints beside tensors: data about the run, of no effect here.
_HARMLESS = frozenset({
    "collections.OrderedDict", "collections.defaultdict", "collections.Counter", "torch.Size",
    "torch.device", "torch.serialization._get_layout", "torch.nn.parameter.Parameter",
    "torch.nn.modules.container.ParameterDict", "torch.nn.modules.container.ParameterList",
    "torch.storage._UntypedStorage", "torch.storage.UntypedStorage", "torch.storage.TypedStorage",
    "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct", "_codecs.encode", "argparse.Namespace",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.utilities.types.ModelCheckpoint",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "torch._utils._rebuild_device_tensor_from_numpy",
})  # fmt: skip
_PLAIN_TYPES = frozenset(
    "int float complex bool str bytes bytearray list tuple dict set frozenset slice range".split()
)
# Where checkpoints keep what they are about, beside counters and optimisers.
_INNER = ("state_dict", "model_state_dict", "params_ema", "params", "model", "module")


def may_name(name: str) -> bool:
    """Tell whether a model file may name this class or function of Python."""
    module, _, own = name.rpartition(".")
    if module in ("builtins", "__builtin__"):
        return own in _PLAIN_TYPES
    if module in ("torch", "torch.cuda", "torch.storage") and (own in _STORAGES or own in _TYPES):
        return True
    return name in _HARMLESS or name in _TENSOR or name in _PARAMETER or name == _TYPED_TENSOR


@dataclass(frozen=True)
class _Storage:
    """The numbers of one or several tensors: where they lie."""

    dtype: str
    start: int
    end: int


@dataclass(frozen=True)
class PickledTensors:
    """What a file describes: its layout, places counting from the file's beginning, and texts."""

    layout: Layout
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Reading:
    """How a description is read: what it may name, and where its tensors are."""

    may_name: Callable[[str], bool]
    tensors: Callable[[Any], Iterator[tuple[str, Call]]]


def read_pickled(
    path: Path, file: BinaryIO, file_bytes: int, reading: Reading | None = None
) -> PickledTensors:
    """Return the tensors that a PyTorch file describes; `reading` is by default a state dict's.

    Raises:
        ValueError: damaged, or it names what no model file needs; says why, as the end of a
            sentence that names the file.
    """
    file.seek(0)
    is_archive = file.read(4) == b"PK\x03\x04"
    reading = reading or Reading(may_name, state_tensors)
    read = _archived if is_archive else _in_a_row
    described, storages = read(file, file_bytes, reading.may_name)
    found: dict[str, TensorInfo] = {}
    for name, call in reading.tensors(described):
        if len(found) >= _MOST_TENSORS:
            raise PickleFault("describes more tensors than any model has")
        found[name] = _tensor(name, call, storages)
    if sys.byteorder != "little":
        raise PickleFault("holds numbers of another byte order")
    return PickledTensors(Layout(found), _texts(described))


# --- the two layouts ------------------------------------------------------------------------------


def _archived(
    file: BinaryIO, file_bytes: int, may_name: Callable[[str], bool]
) -> tuple[Any, Mapping[str, _Storage]]:
    found = members(file, file_bytes)
    described = [name for name in found if name.rpartition("/")[2] == "data.pkl"]
    if len(described) != 1:
        raise ArchiveFault("is a zip archive, but not one that PyTorch wrote")
    folder = described[0].removesuffix("data.pkl")
    order = found.get(f"{folder}byteorder")
    if order is not None and _bytes(file, order) != b"little":
        raise PickleFault("holds numbers of another byte order")
    machine = PickleMachine(memoryview(_bytes(file, found[described[0]])), may_name)
    return machine.load(), _Lookup(found, folder)


class _Lookup(dict[str, _Storage]):
    """Storages of an archive by key; members are looked up when tensors ask for them."""

    def __init__(self, found: Mapping[str, Member], folder: str) -> None:
        super().__init__()
        self._found, self._folder = found, folder

    def __missing__(self, key: str) -> _Storage:
        member = self._found.get(f"{self._folder}data/{key}")
        if member is None:
            raise PickleFault(f"is damaged: the numbers {key[:40]!r} are missing")
        return _Storage("", member.start, member.end)


def _bytes(file: BinaryIO, member: Member) -> bytes:
    if member.size > _MOST_DESCRIPTION_BYTES:
        raise PickleFault("has a description larger than any model's")
    file.seek(member.start)
    return file.read(member.size)


def _in_a_row(
    file: BinaryIO, file_bytes: int, may_name: Callable[[str], bool]
) -> tuple[Any, Mapping[str, _Storage]]:
    """Read the older layout: magic number, version, machine, content, keys, then numbers."""
    file.seek(0)
    text = memoryview(file.read(min(file_bytes, _MOST_DESCRIPTION_BYTES)))
    machine = PickleMachine(text, may_name)
    if machine.load() != _MAGIC:
        raise PickleFault("is a pickle, but not one that PyTorch wrote")
    machine.load()
    facts = machine.load()
    if isinstance(facts, dict) and facts.get("little_endian") is False:
        raise PickleFault("holds numbers of another byte order")
    content, keys = machine.load(), machine.load()
    sizes = dict(_storage_type(reference) for reference in machine.references)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise PickleFault("is damaged: it does not say in which order its numbers come")
    place, storages = machine.place, {}
    for key in keys:
        file.seek(place)
        count = int.from_bytes(file.read(8), "little", signed=True)
        start = place + 8
        place = start + count * DTYPE_BITS[sizes.get(key, "U8")] // 8
        if count < 0 or place > file_bytes:
            raise PickleFault("is truncated: numbers are missing at its end")
        storages[key] = _Storage(sizes.get(key, "U8"), start, place)
    return content, storages


# --- what is described ----------------------------------------------------------------------------


def state_tensors(described: Any) -> Iterator[tuple[str, Call]]:
    """Yield the tensors below the part of a checkpoint that holds its weights."""
    root = described
    if isinstance(root, dict):
        inner = [root[name] for name in _INNER if isinstance(root.get(name), dict)]
        root = next((table for table in inner if any(_walk("", table, 1))), root)
    yield from _walk("", root, 0)


def described_tensor(value: Any) -> Call | None:
    """Return a tensor's description, taken out of that of a parameter; None for anything else."""
    if isinstance(value, Call) and value.name in _PARAMETER and value.arguments:
        value = value.arguments[0]
    is_tensor = isinstance(value, Call) and (value.name in _TENSOR or value.name == _TYPED_TENSOR)
    return value if is_tensor else None


def _walk(lead: str, value: Any, depth: int) -> Iterator[tuple[str, Call]]:
    if depth > _MOST_DEPTH:
        raise PickleFault("nests its tensors deeper than any model does")
    if isinstance(value, Call):
        tensor = described_tensor(value)
        if tensor is not None:
            yield lead, tensor
            return
        state = value.state if isinstance(value.state, dict) else {}
        value = {**value.items, **state, **state.get("_parameters", {})} if state else value.items
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(key, str) and key != "_parameters":
                yield from _walk(f"{lead}.{key}" if lead else key, inner, depth + 1)


def _storage_type(reference: Any) -> tuple[str, str]:
    """Return key and type of the storage that a reference means."""
    parts = reference if isinstance(reference, tuple) else ()
    kind = parts[1] if len(parts) > 2 else None
    own = kind.name.rpartition(".")[2] if isinstance(kind, Global) else ""
    if own not in _STORAGES or not isinstance(parts[2], str | int):
        raise PickleFault("keeps its numbers in a way that this version does not know")
    return str(parts[2]), _STORAGES[own]


def _tensor(name: str, call: Call, storages: Mapping[str, _Storage]) -> TensorInfo:
    reference = call.arguments[0] if call.arguments else None
    if not isinstance(reference, Persistent):
        raise PickleFault(f"is damaged: nothing says where the numbers of {name[:80]!r} lie")
    key, dtype = _storage_type(reference.id)
    if call.name == _TYPED_TENSOR:
        said = call.arguments[6] if len(call.arguments) > 6 else None
        dtype = _TYPES.get(said.name.rpartition(".")[2], "") if isinstance(said, Global) else ""
        if not dtype:
            raise PickleFault(f"keeps {name[:80]!r} in numbers that this version does not know")
    try:
        offset, shape, strides = call.arguments[1], call.arguments[2], call.arguments[3]
    except IndexError:
        raise PickleFault(f"is damaged: {name[:80]!r} has no shape") from None
    shape, strides = _sizes(shape), _sizes(strides)
    if shape is None or strides is None or _sizes((offset,)) is None:
        raise PickleFault(f"is damaged: {name[:80]!r} has no valid shape")
    if len(shape) != len(strides) or not _is_dense(shape, strides):
        raise PickleFault(
            f"keeps {name[:80]!r} with its dimensions out of order; save the file again as "
            ".safetensors"
        )
    if key not in storages and not isinstance(storages, _Lookup):
        raise PickleFault(f"is damaged: the numbers {key[:40]!r} are missing")
    storage = storages[key]
    itemsize = DTYPE_BITS[dtype] // 8
    start = storage.start + offset * itemsize
    end = start + math.prod(shape) * itemsize
    if end > storage.end:
        raise PickleFault(f"is damaged: the numbers of {name[:80]!r} lie outside of it")
    return TensorInfo(dtype, shape, start, end)


def _sizes(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, Call) and value.name == "torch.Size" and value.arguments:
        value = value.arguments[0]
    if not isinstance(value, tuple | list) or len(value) > _MOST_DIMENSIONS:
        return None
    is_sound = all(type(one) is int and 0 <= one < 2**48 for one in value)
    return tuple(value) if is_sound else None


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step and 0 not in shape:
            return False
        step *= size
    return True


def _texts(described: Any) -> dict[str, str]:
    """Return the short texts and numbers beside the tensors, as metadata."""
    if not isinstance(described, dict):
        return {}
    return {
        key: str(value)
        for key, value in described.items()
        if isinstance(key, str) and isinstance(value, str | int | float) and len(str(value)) < 1000
    }
