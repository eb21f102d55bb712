"""Text to token ids, offline: CLIP's byte-pair encoding, T5's and Qwen's, all shipped with us.

Built with the `tokenizers` library alone, which loads in a tenth of the time of transformers.
Cutting into chunks and weights is `prompt.tokens`' work. No torch here.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

from sdforge.core.paths import configs_root

if TYPE_CHECKING:
    import tokenizers

_START, _END = "<|startoftext|>", "<|endoftext|>"
# The vocabulary is 256 bytes, the same at a word's end, one entry per merge, and two marks.
_MERGES = 49152 - 256 - 2
_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


@dataclass(frozen=True)
class Tokenizer:
    """Turns text into ids, without the marks at start and end."""

    backend: tokenizers.Tokenizer
    bos: int
    eos: int
    pad: int
    comma: int
    vocabulary: int

    def __call__(self, text: str) -> list[int]:
        """Return the ids of a text of any length."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids


@cache
def clip_tokenizer() -> Tokenizer:
    """Return the tokenizer of OpenAI's CLIP; made once in a process."""
    from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import BPE

    path = configs_root() / "tokenizers" / "clip" / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = islice(file, 1, _MERGES + 1)
        merges = [(first, second) for first, second in (line.split() for line in lines)]
    letters = list(byte_letters().values())
    entries = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *(first + second for first, second in merges),
        _START,
        _END,
    ]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    backend = Backend(
        BPE(
            vocab=vocabulary,
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=_END,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.add_special_tokens([AddedToken(mark, special=True) for mark in (_START, _END)])
    end = vocabulary[_END]
    return Tokenizer(
        backend=backend,
        bos=vocabulary[_START],
        eos=end,
        pad=end,
        comma=vocabulary[",</w>"],
        vocabulary=len(entries),
    )


@cache
def t5_tokenizer() -> Tokenizer:
    """Return the tokenizer of T5 v1.1; made once in a process."""
    return _shipped("t5", end="</s>", pad="<pad>")


@cache
def qwen_tokenizer() -> Tokenizer:
    """Return the tokenizer of Qwen 2.5 and 3, which knows the marks of chats."""
    return _shipped("qwen3", end="<|im_end|>", pad="<|endoftext|>")


def _shipped(name: str, *, end: str, pad: str) -> Tokenizer:
    """Return a tokenizer whose whole description ships with us; it has no mark for the start."""
    from tokenizers import Tokenizer as Backend

    path = configs_root() / "tokenizers" / name / "tokenizer.json.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        backend = Backend.from_str(file.read())
    known = backend.get_vocab(with_added_tokens=True)
    return Tokenizer(
        backend=backend,
        bos=known[pad],
        eos=known[end],
        pad=known[pad],
        comma=known[","],
        vocabulary=len(known),
    )


def byte_letters() -> dict[int, str]:
    """Return the printable letter that stands for each byte, in the vocabulary's order (GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters.update({byte: chr(256 + place) for place, byte in enumerate(others)})
    return letters
