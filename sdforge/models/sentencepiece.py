"""SentencePiece models of the byte-pair kind, read without its library and without protobuf's.

Such a file is a message of Protocol Buffers: pieces with their scores, and how the model was made.
Only what tokenizing needs is looked at. No torch here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

# Fields of the messages (sentencepiece_model.proto).
_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _DUMMY_PREFIX = 3, 3
_BYTE_PAIRS = 2
# Kinds of pieces: marks that text cannot spell, and what was named when the model was made.
_CONTROL, _NAMED, _UNKNOWN = 3, 4, 2
_SPACE = "▁"


@dataclass(frozen=True)
class Pieces:
    """The pieces of a model in order of their ids: text, score and kind of each."""

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[int, ...]
    begins_with_space: bool


def read_pieces(message: bytes) -> Pieces:
    """Return the pieces of a SentencePiece model.

    Raises:
        ValueError: it is none, or not one of byte pairs; says why, as an end of a sentence.
    """
    texts, scores, kinds = [], [], []
    model_type, begins = 1, True
    for number, value in _fields(message):
        if number == _PIECE and isinstance(value, bytes):
            found = dict(_fields(value))
            text, score = found.get(_TEXT, b""), found.get(_SCORE, 0.0)
            if not isinstance(text, bytes):
                raise ValueError("is no SentencePiece model")
            texts.append(text.decode("utf-8"))
            scores.append(float(score) if isinstance(score, int | float) else 0.0)
            kinds.append(_number(found.get(_KIND, 1)))
        elif number == _TRAINER and isinstance(value, bytes):
            model_type = _number(dict(_fields(value)).get(_MODEL_TYPE, 1))
        elif number == _NORMALIZER and isinstance(value, bytes):
            begins = bool(dict(_fields(value)).get(_DUMMY_PREFIX, 1))
    if not texts:
        raise ValueError("is no SentencePiece model: it has no pieces")
    if model_type != _BYTE_PAIRS:
        raise ValueError("is a SentencePiece model of another kind than byte pairs")
    return Pieces(tuple(texts), tuple(scores), tuple(kinds), begins)


def tokenizer_of(pieces: Pieces) -> tokenizers.Tokenizer:
    """Return the tokenizer of a model of byte pairs; what it has no piece for becomes bytes."""
    from tokenizers import AddedToken, Tokenizer, normalizers
    from tokenizers.models import BPE

    vocabulary = {text: number for number, text in enumerate(pieces.texts)}
    best_first = {
        text: -score
        for text, score, kind in zip(pieces.texts, pieces.scores, pieces.kinds, strict=True)
        if kind not in (_CONTROL, _UNKNOWN)
    }
    unknown = next(
        (text for text, kind in zip(pieces.texts, pieces.kinds, strict=True) if kind == _UNKNOWN),
        None,
    )
    backend = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=merges_of(best_first),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaced = [normalizers.Prepend(_SPACE)] if pieces.begins_with_space else []
    backend.normalizer = normalizers.Sequence([*spaced, normalizers.Replace(" ", _SPACE)])
    backend.add_tokens(
        [
            AddedToken(text, special=kind == _CONTROL, normalized=False)
            for text, kind in zip(pieces.texts, pieces.kinds, strict=True)
            if kind in (_CONTROL, _NAMED)
        ]
    )
    return backend


def merges_of(order: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return which two pieces are joined to which, first those whose whole comes first.

    Args:
        order: of each piece; smaller ones are joined before larger ones.
    """
    found = [
        (place, whole[:cut], whole[cut:])
        for whole, place in order.items()
        for cut in range(1, len(whole))
        if whole[:cut] in order and whole[cut:] in order
    ]
    found.sort(key=lambda one: (one[0], order[one[1]], order[one[2]]))
    return [(left, right) for _, left, right in found]


def _fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Yield the fields of a message, number and value; raises `ValueError` where it is none."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, place = _varint(message, place)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, place = _varint(message, place)
        if size is None or place + size > len(message):
            raise ValueError("is no SentencePiece model")
        part = message[place : place + size]
        place += size
        yield number, struct.unpack("<f", part)[0] if wire == 5 else part


def _varint(message: bytes, place: int) -> tuple[int, int]:
    found = 0
    for shift in range(0, 64, 7):
        if place >= len(message):
            break
        byte = message[place]
        place += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, place
    raise ValueError("is no SentencePiece model")


def _number(value: int | float | bytes) -> int:
    return value if isinstance(value, int) else 0
