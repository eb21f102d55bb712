"""A tiny vocabulary as SentencePiece writes it, for encoders that bring their own tokenizer."""

from __future__ import annotations

import base64
import json
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


# Mistral's marks in their order, and some byte pairs in order of rank behind the single bytes.
MARKS = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]",
    "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
)  # fmt: skip
RANKED = (b" c", b"at", b" cat", b"re", b"on", b" a", b"bj", b"\xc3\xbc", b"in", b"wa", b"er")
PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+"


def tekken() -> bytes:
    """Return a tiny vocabulary in the form of Mistral's tekken.json."""
    tokens = [*(bytes([byte]) for byte in range(256)), *RANKED]
    vocabulary = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for rank, token in enumerate(tokens)
    ]
    config = {
        "pattern": PATTERN,
        "default_vocab_size": len(MARKS) + len(tokens),
        "default_num_special_tokens": len(MARKS),
    }
    marks = [{"rank": rank, "token_str": text} for rank, text in enumerate(MARKS)]
    return json.dumps({"config": config, "vocab": vocabulary, "special_tokens": marks}).encode()


def carried_tekken() -> dict[str, torch.Tensor]:
    """Return that as the tensor that files for ComfyUI carry it in."""
    return {"tekken_model": torch.tensor(list(tekken()), dtype=torch.uint8)}


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
