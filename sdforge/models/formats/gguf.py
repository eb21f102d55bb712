"""GGUF files as headers: names, shapes, types and places of tensors.

The layout: the word GGUF, a version, how many tensors and how many facts, the facts, the tensors'
descriptions, and from the next aligned place on the numbers (specification in ggml's docs/gguf.md).
Shapes are written with the fastest dimension first, the other way round than everywhere else.
Nothing is believed before it is checked against the file's size. No torch.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from sdforge.models.formats.ggml_types import GGML_TYPES
from sdforge.models.layout import Layout, TensorInfo

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_FACTS, _MOST_TENSORS, _MOST_DIMENSIONS = 100_000, 100_000, 8
_MOST_HEADER_BYTES = 64 * 1024 * 1024
_LONGEST_NAME = 4096
_LONGEST_FACT = 1000
_DEFAULT_ALIGNMENT = 32
# city96's converter flattens kernels to rows of whole blocks and keeps their shape as a fact.
_SHAPE_FACT = "comfy.gguf.orig_shape."
_NUMBERS: Mapping[int, str] = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
# What tells how a vocabulary is to be read; all else about tokenizers is left out of metadata.
TOKENIZER_FACTS = ("tokenizer.ggml.model", "tokenizer.ggml.pre")


class GgufFault(ValueError):
    """The file is damaged or of an unknown version; the message ends a sentence about it."""


@dataclass(frozen=True)
class GgufTensors:
    """What a file describes; places count from `data_start`."""

    layout: Layout
    metadata: Mapping[str, str]
    data_start: int


@dataclass(frozen=True)
class GgufVocabulary:
    """The tokenizer that a language model's file describes.

    `tokens` are texts in order of their ids, `kinds` what each is (1 a usual one), `merges` pairs
    with a space between, those that are joined first in front.
    """

    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]


def read_gguf(file: BinaryIO, file_bytes: int) -> GgufTensors:
    """Read what a GGUF file holds.

    Raises:
        GgufFault: damaged, truncated, or of a version or type that is not known.
    """
    text, tensor_count, facts = _opened(file, file_bytes)
    alignment = facts.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= 2**20:
        raise GgufFault(f"is damaged: its tensors are aligned to {alignment!r} bytes")
    described = dict(_description(text, facts) for _ in range(tensor_count))
    if len(described) != tensor_count:
        raise GgufFault("is damaged: two of its tensors have the same name")
    data_start = -(-text.place // alignment) * alignment
    _check_places(described, file_bytes - data_start)
    return GgufTensors(Layout(described), _texts(facts), data_start)


def read_vocabulary(file: BinaryIO, file_bytes: int) -> GgufVocabulary:
    """Read the tokenizer of a language model.

    Raises:
        GgufFault: damaged, or it describes none.
    """
    facts = _opened(file, file_bytes, keeps="tokenizer.ggml.")[2]
    lists = [facts.get(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type", "merges")]
    tokens, kinds, merges = (tuple(one) if isinstance(one, list) else () for one in lists)
    if not tokens or len(kinds) not in (0, len(tokens)):
        raise GgufFault("describes no tokenizer")
    return GgufVocabulary(tokens, kinds or (1,) * len(tokens), merges)


def _opened(file: BinaryIO, file_bytes: int, keeps: str = "-") -> tuple[_Text, int, dict[str, Any]]:
    """Return the file behind its facts, how many tensors it has, and the facts.

    Long lists are left out, unless the fact's name begins with `keeps`.
    """
    file.seek(0)
    text = _Text(file, file_bytes)
    if text.take(4) != _MAGIC:
        raise GgufFault("is no GGUF file: it does not begin with the word GGUF")
    version = text.number("<I")
    if version not in _VERSIONS:
        raise GgufFault(f"is a GGUF file of version {version}; versions 2 and 3 can be read")
    tensor_count, fact_count = text.number("<Q"), text.number("<Q")
    if tensor_count > _MOST_TENSORS or fact_count > _MOST_FACTS:
        raise GgufFault(f"is damaged: it claims {tensor_count} tensors and {fact_count} facts")
    facts: dict[str, Any] = {}
    for _ in range(fact_count):
        name = text.string()
        facts[name] = text.value(text.number("<I"), whole=name.startswith(keeps))
    return text, tensor_count, facts


def _description(text: _Text, facts: Mapping[str, Any]) -> tuple[str, TensorInfo]:
    name = text.string()
    count = text.number("<I")
    if count > _MOST_DIMENSIONS:
        raise GgufFault(f"is damaged: {name[:80]!r} has {count} dimensions")
    shape = tuple(text.number("<Q") for _ in range(count))[::-1]
    kind = GGML_TYPES.get(number := text.number("<I"))
    start = text.number("<Q")
    if kind is None:
        raise GgufFault(f"holds {name[:80]!r} in type {number}, which this version does not know")
    numbers = math.prod(shape)
    if numbers % kind.numbers or (shape and shape[-1] % kind.numbers):
        raise GgufFault(f"is damaged: {name[:80]!r} is no row of whole {kind.name} blocks")
    end = start + numbers // kind.numbers * kind.bytes
    own = facts.get(_SHAPE_FACT + name)
    if isinstance(own, list) and all(isinstance(one, int) and one >= 0 for one in own):
        if math.prod(own) != numbers:
            raise GgufFault(f"is damaged: {name[:80]!r} does not fit its original shape {own}")
        shape = tuple(own)
    return name, TensorInfo(kind.name, shape, start, end)


def _check_places(tensors: Mapping[str, TensorInfo], data_bytes: int) -> None:
    last_end, last_name = 0, ""
    for name, info in sorted(tensors.items(), key=lambda item: item[1].start):
        if info.end > data_bytes:
            missing = info.end - data_bytes
            raise GgufFault(f"is truncated: {missing} bytes of {name[:80]!r} are missing")
        if info.start < last_end and info.size_bytes:
            raise GgufFault(f"is damaged: {last_name[:80]!r} and {name[:80]!r} overlap")
        if info.end > last_end:
            last_end, last_name = info.end, name


def _texts(facts: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: str(value)
        for name, value in facts.items()
        if isinstance(value, str | int | float)
        and len(str(value)) <= _LONGEST_FACT
        and (not name.startswith("tokenizer.") or name in TOKENIZER_FACTS)
    }


class _Text:
    """The file's beginning, read forward."""

    def __init__(self, file: BinaryIO, file_bytes: int) -> None:
        self.place = 0
        self._file = file
        self._left = min(file_bytes, _MOST_HEADER_BYTES)
        self._is_cut = file_bytes <= _MOST_HEADER_BYTES

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        if count > self._left:
            why = "is truncated: its header breaks off" if self._is_cut else "is damaged"
            raise GgufFault(f"{why} (at byte {self.place})")
        found = self._file.read(count)
        if len(found) != count:
            raise GgufFault("shrank while it was being read")
        self.place += count
        self._left -= count
        return found

    def number(self, form: str) -> Any:
        """Return the next number of a form of `struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        """Return the next name."""
        length = self.number("<Q")
        if length > _LONGEST_NAME:
            raise GgufFault(f"is damaged: it has a name of {length} letters")
        return self.take(length).decode("utf-8", "replace")

    def value(self, kind: int, *, whole: bool = False) -> Any:
        """Return the next value; None for long lists and lists of texts unless they are wanted."""
        if kind == _STRING:
            length = self.number("<Q")
            return self.take(length).decode("utf-8", "replace")
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise GgufFault(f"is damaged: a fact is of the unknown type {kind}")
        inner, count = self.number("<I"), self.number("<Q")
        if inner == _STRING:
            # Vocabularies: a quarter of a million words that our own tokenizers have.
            words = (self.take(self.number("<Q")) for _ in range(count))
            if whole:
                return [word.decode("utf-8", "replace") for word in words]
            for _ in words:
                pass
            return None
        if inner not in _NUMBERS:
            raise GgufFault(f"is damaged: a list of facts is of the unknown type {inner}")
        form = _NUMBERS[inner]
        numbers = self.take(count * struct.calcsize(form))
        if count > _MOST_DIMENSIONS and not whole:
            return None
        return [number for (number,) in struct.iter_unpack(form, numbers)]
