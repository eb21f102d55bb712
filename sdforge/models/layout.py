"""The tensors' part of a safetensors header: names, types, shapes and places, parsed and checked.

Files of one kind, saved by the same tools, differ in this part by not a single byte: only their
metadata and weights do. So the last few layouts are kept, and a folder of fine-tunes, or a sweep
over them, parses one header. `checkpoint.py` reads the bytes and knows the file.
"""

from __future__ import annotations

import gc
import json
import operator
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from itertools import chain
from math import prod
from typing import Any, NamedTuple, TypeGuard

import orjson

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
_MOST_DIMENSIONS = 64
_INTEGERS, _LISTS = {int}, {list}
_METADATA = "__metadata__"
# As the safetensors library writes it: first of all, without spaces.
_METADATA_FIRST = b'{"__metadata__":'
_LAYOUTS_KEPT = 16
_MOST_BYTES_KEPT = 2 * 1024 * 1024


class TensorInfo(NamedTuple):
    """One tensor of a file; `start` and `end` count bytes from `CheckpointHeader.data_start`.

    `four_bit` is what else unpacks it, for types that need that.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    four_bit: FourBit | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes that it takes up in the file."""
        return self.end - self.start

    def moved(self, offset: int) -> TensorInfo:
        """Return the same tensor where all places count from `offset` bytes earlier."""
        beside = self.four_bit and self.four_bit.moved(offset)
        return self._replace(start=self.start + offset, end=self.end + offset, four_bit=beside)


class FourBit(NamedTuple):
    """What 4-bit numbers need to be unpacked: the tensors beside them, and sizes of blocks.

    With `nested_scales` the scales are indexes into `nested_table`, in blocks of their own, and
    `nested_offset` is added to each.
    """

    block: int
    scales: TensorInfo
    table: TensorInfo
    nested_block: int = 0
    nested_scales: TensorInfo | None = None
    nested_table: TensorInfo | None = None
    nested_offset: float = 0.0

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """The tensors beside the numbers."""
        found = (self.scales, self.table, self.nested_scales, self.nested_table)
        return tuple(info for info in found if info is not None)

    def moved(self, offset: int) -> FourBit:
        """Return the same with all places moved."""
        nested, table = self.nested_scales, self.nested_table
        return self._replace(
            scales=self.scales.moved(offset),
            table=self.table.moved(offset),
            nested_scales=nested and nested.moved(offset),
            nested_table=table and table.moved(offset),
        )


class Layout:
    """Which tensors lie where; equal to nothing but itself, so that it can be a key."""

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        """Take checked tensors, see `read_layout`."""
        self.tensors = tensors
        self.data_bytes = max((info.end for info in tensors.values()), default=0)
        self._under: dict[str, Mapping[str, str]] = {}

    @cached_property
    def _sorted(self) -> Sequence[str]:
        return sorted(self.tensors)

    def has_prefix(self, prefix: str) -> bool:
        """Say whether any tensor's name begins with `prefix`."""
        names = self._sorted
        place = bisect_left(names, prefix)
        return place < len(names) and names[place].startswith(prefix)

    def under(self, prefix: str) -> Mapping[str, str]:
        """Return the names below `prefix`, sorted: without it → in full. Found once per prefix."""
        found = self._under.get(prefix)
        if found is None:
            start, names = len(prefix), self._sorted
            begin = bisect_left(names, prefix)
            end = bisect_right(names, prefix, begin, key=lambda name: name[:start])
            found = self._under[prefix] = {key[start:]: key for key in names[begin:end]}
        return found


def read_layout(text: bytes) -> tuple[Layout, Mapping[str, str]]:
    """Return the layout and the metadata that a header's JSON describes.

    Raises:
        ValueError: it is no such header; says why, as an end of a sentence that names the file.
    """
    metadata, rest = _cut_metadata(text)
    parse = _parse_kept if len(rest) <= _MOST_BYTES_KEPT else _parse
    with _uncollected():
        layout, later = parse(rest)
    # Of keys that come twice the last one counts, as everywhere in Python.
    return layout, _strings(metadata) if later is None else later


@contextmanager
def _uncollected() -> Iterator[None]:
    """Hold the garbage collector back for the few milliseconds that a header takes.

    The thousands of small objects that appear would set it off several times, each time walking
    through all that torch and diffusers have made: four times the work of parsing itself.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _cut_metadata(text: bytes) -> tuple[Any, bytes]:
    """Return the metadata where they come first, and the header without them."""
    text = text.rstrip(b" ")
    if not text.startswith(_METADATA_FIRST):
        return None, text
    start = len(_METADATA_FIRST)
    try:
        metadata, end = json.JSONDecoder().raw_decode(text.decode("utf-8"), start)
        end = len(text.decode("utf-8")[:end].encode("utf-8"))
    except (ValueError, RecursionError):
        return None, text
    # Anything unusual behind them is for the parser to judge, in one piece.
    if text[end : end + 2] != b',"':
        return None, text
    return metadata, b"{" + text[end + 1 :]


def _parse(text: bytes) -> tuple[Layout, Mapping[str, str] | None]:
    """Return the layout, and the metadata if there are any."""
    try:
        header = orjson.loads(text)
    except ValueError as error:
        raise ValueError(
            f"is no safetensors file: its header is not JSON ({_brief(error)})"
        ) from error
    if not isinstance(header, dict):
        raise ValueError("is no safetensors file: its header is no JSON object")
    metadata = _strings(header.pop(_METADATA)) if _METADATA in header else None
    tensors = _sound_tensors(header)
    if tensors is None:
        tensors = {name: _tensor(name, entry) for name, entry in header.items()}
    _check_places(tensors)
    return Layout(tensors), metadata


_parse_kept = lru_cache(maxsize=_LAYOUTS_KEPT)(_parse)


def forget() -> None:
    """Keep no layout any longer, so that the next header is parsed anew."""
    _parse_kept.cache_clear()


def _sound_tensors(header: Mapping[str, Any]) -> dict[str, TensorInfo] | None:
    """Return all tensors when all are sound, else None: the quick way through a thousand.

    Column by column, since that is where Python spends least on each of them.
    """
    try:
        entries = header.values()
        shapes = [entry["shape"] for entry in entries]
        places = [entry["data_offsets"] for entry in entries]
        types = [entry["dtype"] for entry in entries]
        wanted = [
            (prod(shape) * DTYPE_BITS[dtype] + 7) // 8
            for shape, dtype in zip(shapes, types, strict=True)
        ]
        if [end - start for start, end in places] != wanted:
            return None
        numbers = [*chain.from_iterable(shapes), *chain.from_iterable(places)]
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if not entries:
        return {}
    is_sound = (
        set(map(type, shapes)) == _LISTS
        and set(map(type, numbers)) == _INTEGERS
        and min(numbers) >= 0
        and max(numbers) < 2**63
        and max(map(len, shapes)) <= _MOST_DIMENSIONS
    )
    if not is_sound:
        return None
    # What `TensorInfo._make` calls, a third faster without the call between.
    make = tuple.__new__
    return {
        name: make(TensorInfo, (dtype, tuple(shape), start, end, None))
        for name, dtype, shape, (start, end) in zip(header, types, shapes, places, strict=True)
    }


def _tensor(name: str, entry: Any) -> TensorInfo:
    what = f"is damaged: tensor {name[:200]!r}"
    if not isinstance(entry, dict):
        raise ValueError(f"{what} is not described by an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise ValueError(f"{what} has an unknown type of numbers, {_brief(dtype)}")
    if not _is_counts(shape):
        raise ValueError(f"{what} has no valid shape: {_brief(shape)}")
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{what} has no valid place in the file: {_brief(offsets)}")
    wanted = -(-prod(shape) * DTYPE_BITS[dtype] // 8)
    if offsets[1] - offsets[0] != wanted:
        raise ValueError(
            f"{what} takes {offsets[1] - offsets[0]} bytes, but {dtype} of shape "
            f"{_brief(list(shape))} takes {_brief(wanted)}"
        )
    return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])


def _check_places(tensors: Mapping[str, TensorInfo]) -> None:
    if _is_in_order(tensors.values()):
        return
    last_end, last_name = 0, ""
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start < last_end and info.size_bytes:
            raise ValueError(f"is damaged: tensors {last_name[:200]!r} and {name[:200]!r} overlap")
        if info.end > last_end:
            last_end, last_name = info.end, name


def _is_in_order(infos: Collection[TensorInfo]) -> bool:
    """Say whether each tensor begins where the one before it ends or later, as all tools write."""
    begins = [info.start for info in infos]
    ends = [info.end for info in infos]
    return all(map(operator.le, ends, begins[1:]))


def _is_counts(value: object) -> TypeGuard[list[int]]:
    # bool is an int in Python; JSON's true is no number. The limits keep products small.
    if not isinstance(value, list) or len(value) > _MOST_DIMENSIONS:
        return False
    return not value or (
        set(map(type, value)) == _INTEGERS and min(value) >= 0 and max(value) < 2**63
    )


def _strings(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict):
        return {}
    return {str(key): value for key, value in metadata.items() if isinstance(value, str)}


def _brief(value: object, limit: int = 80) -> str:
    try:
        text = str(value)
    except ValueError:  # an integer with too many digits to print
        text = "(a huge number)"
    return text if len(text) <= limit else text[: limit - 1] + "…"
