"""A tiny vocabulary as SentencePiece writes it, for encoders that bring their own tokenizer."""

from __future__ import annotations

import struct

import torch

CONTROL, UNKNOWN, NAMED, BYTE, NORMAL = 3, 2, 4, 6, 1
_WORDS = (
    "▁a", "▁p", "ho", "to", "▁pho", "▁photo", "▁c", "at", "▁cat", "▁of", "▁o", "ou", "co", "lo",
    "er", "wa", "water", "ter", "▁blur", "▁b", "lur", "ry", "▁t", "ext", "ex", "ong", "tex",
)  # fmt: skip


def pieces() -> list[tuple[str, float, int]]:
    """Return text, score and kind of each piece in order of its id, in Gemma's manner."""
    found: list[tuple[str, float, int]] = [
        ("<pad>", 0.0, CONTROL), ("<eos>", 0.0, CONTROL), ("<bos>", 0.0, CONTROL),
        ("<unk>", 0.0, UNKNOWN), ("<start_of_turn>", 0.0, NAMED), ("\\n\\n", 0.0, NAMED),
    ]  # fmt: skip
    found += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    rest = [*_WORDS, "▁", *(chr(code) for code in range(33, 127))]
    return found + [(text, -float(place), NORMAL) for place, text in enumerate(rest)]


def sentencepiece_model() -> bytes:
    """Return the vocabulary as a SentencePiece model of byte pairs without a space in front."""
    entries = [_named(1, _named(1, text.encode()) + _float(2, score) + _number(3, kind))
               for text, score, kind in pieces()]  # fmt: skip
    return b"".join(entries) + _named(2, _number(3, 2)) + _named(3, _number(3, 0))


def carried() -> dict[str, torch.Tensor]:
    """Return the model as the tensor that files for ComfyUI carry it in."""
    return {"spiece_model": torch.tensor(list(sentencepiece_model()), dtype=torch.uint8)}


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _named(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _float(field: int, number: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", number)
