"""Tokenizers that come with a model instead of with us: too large, or not free to be passed on.

Gemma's and Mistral's lie inside the file of the text encoder (as those for ComfyUI have them; of
Mistral's GGUF files the header describes it), in a folder of diffusers, or beside the file. Where
there is none, the error names the files that would do. Headers first: `find_tokenizer` reads no
vocabulary, `carried_tokenizer` does. No torch here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdforge.core.errors import CorruptCheckpoint, MissingModel
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.formats.gguf import read_vocabulary
from sdforge.models.sentencepiece import merges_of, read_pieces, tokenizer_of
from sdforge.models.tokenizers import Tokenizer, byte_letters

if TYPE_CHECKING:
    import tokenizers

# The largest, Mistral's, has 20 MB.
_MOST_BYTES = 64 * 1024 * 1024
JSON, SENTENCEPIECE, TEKKEN = "tokenizer.json", "tokenizer.model", "tekken.json"
# Bytes that files carry as a tensor of that name → the file that they were.
_CARRIED = {"tokenizer_json": JSON, "spiece_model": SENTENCEPIECE, "tekken_model": TEKKEN}
_FORMS = (JSON, SENTENCEPIECE, TEKKEN)
# A GGUF file's own, where it is Tekken; how that splits text stands in no such file.
GGUF = "gguf"
_TEKKEN_FACTS = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "tekken"}
TEKKEN_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_USUAL, _UNUSED, _BYTE = 1, 5, 6


@dataclass(frozen=True)
class TokenizerFile:
    """Where a tokenizer's description lies: bytes of a file, in one of three forms."""

    path: Path
    start: int
    end: int
    form: str


@dataclass(frozen=True)
class Marks:
    """What a tokenizer must know to be the right one: the marks of start, end and padding."""

    start: str
    end: str
    pad: str


def find_tokenizer(header: CheckpointHeader, what: str) -> TokenizerFile:
    """Return the tokenizer that came with a text encoder.

    Args:
        header: of the text encoder's file or folder.
        what: whose it is, for the error: 'Gemma 2'.

    Raises:
        MissingModel: there is none; says which file to put where.
    """
    for key, info in header.tensors.items():
        form = _CARRIED.get(key.rpartition(".")[2])
        if form is not None and info.dtype in ("U8", "I8") and not header.parts:
            first = header.data_start
            return TokenizerFile(header.path, first + info.start, first + info.end, form)
    for path, form in _places(header):
        if path.is_file():
            return TokenizerFile(path, 0, path.stat().st_size, form)
    if all(header.metadata.get(name) == said for name, said in _TEKKEN_FACTS.items()):
        return TokenizerFile(header.path, 0, 0, GGUF)
    stem = header.path.stem
    wanted = "tokenizer/tokenizer.json inside it" if header.parts else f"{stem}.{JSON} beside it"
    raise MissingModel(
        f"{header.path.name} comes without the tokenizer of {what}, which does not ship with this "
        f"program: put the model's tokenizer.json there as {wanted} (or {SENTENCEPIECE}, {TEKKEN}),"
        " or take a file that holds it, as the text encoders made for ComfyUI do"
    )


def _places(header: CheckpointHeader) -> Iterator[tuple[Path, str]]:
    path = header.path
    if header.parts:
        for form in _FORMS:
            yield path / "tokenizer" / form, form
        return
    for form in _FORMS:
        yield path.with_name(f"{path.stem}.{form}"), form
        yield path.parent / path.stem / form, form
    for form in _FORMS:
        yield path.parent / "tokenizer" / form, form
        yield path.parent / form, form


@lru_cache(maxsize=4)
def carried_tokenizer(source: TokenizerFile, marks: Marks, rows: int) -> Tokenizer:
    """Return the tokenizer that lies there; made once.

    Args:
        source: as found.
        marks: that it must know.
        rows: of the text encoder's table, which its ids must stay within.

    Raises:
        CorruptCheckpoint: it cannot be read, or is that of another model.
    """
    name = f"the tokenizer in {source.path.name}"
    try:
        of_gguf = source.form == GGUF
        backend = _of_gguf(source.path) if of_gguf else _backend(_bytes(source), source.form)
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as fault:
        raise CorruptCheckpoint(f"{name} is damaged ({str(fault)[:80]})") from fault
    except ValueError as fault:
        raise CorruptCheckpoint(f"{name} {fault}") from fault
    backend.no_truncation()
    backend.no_padding()
    known = backend.get_vocab(with_added_tokens=True)
    lacking = [mark for mark in (marks.start, marks.end, marks.pad) if mark not in known]
    if lacking:
        raise CorruptCheckpoint(f"{name} is that of another model: it does not know {lacking[0]}")
    largest = max(known.values())
    if largest >= rows:
        raise CorruptCheckpoint(
            f"{name} is that of another model: it counts to {largest}, and the text encoder knows "
            f"{rows} tokens"
        )
    return Tokenizer(
        backend=backend,
        bos=known[marks.start],
        eos=known[marks.end],
        pad=known[marks.pad],
        comma=known.get(",", known[marks.end]),
        vocabulary=largest + 1,
    )


def _bytes(source: TokenizerFile) -> bytes:
    if source.end - source.start > _MOST_BYTES:
        raise ValueError(f"takes {source.end - source.start} bytes, more than any does")
    try:
        with source.path.open("rb") as file:
            file.seek(source.start)
            found = file.read(source.end - source.start)
    except OSError as error:
        raise MissingModel(f"{source.path} cannot be opened: {error.strerror or error}") from error
    if len(found) < source.end - source.start:
        raise ValueError("is truncated")
    return found


def _backend(content: bytes, form: str) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend

    if form == SENTENCEPIECE:
        return tokenizer_of(read_pieces(content))
    if form == TEKKEN:
        return _of_tekken(json.loads(content))
    try:
        return Backend.from_buffer(content)
    except Exception as error:  # noqa: BLE001 - the library raises nothing more particular
        raise ValueError(f"is no description of a tokenizer ({str(error)[:80]})") from error


def _of_tekken(described: Any) -> tokenizers.Tokenizer:
    """Return Mistral's Tekken: byte pairs in order of rank, behind a number of special tokens."""
    config = described["config"]
    specials, total = int(config["default_num_special_tokens"]), int(config["default_vocab_size"])
    letters = byte_letters()
    order = {
        "".join(letters[byte] for byte in base64.b64decode(entry["token_bytes"])): number
        for number, entry in enumerate(described["vocab"][: total - specials])
    }
    named = {entry["rank"]: entry["token_str"] for entry in described.get("special_tokens") or ()}
    marks = [named.get(rank, f"<SPECIAL_{rank}>") for rank in range(specials)]
    vocabulary = {mark: rank for rank, mark in enumerate(marks)}
    vocabulary |= {text: specials + number for text, number in order.items()}
    return _byte_pairs(vocabulary, merges_of(order), str(config["pattern"]), marks)


def _of_gguf(path: Path) -> tokenizers.Tokenizer:
    """Return the Tekken that the header of a GGUF file describes."""
    try:
        with path.open("rb") as file:
            said = read_vocabulary(file, path.stat().st_size)
    except OSError as error:
        raise MissingModel(f"{path} cannot be opened: {error.strerror or error}") from error
    vocabulary = {token: number for number, token in enumerate(said.tokens)}
    merges = [(left, right) for left, _, right in (pair.partition(" ") for pair in said.merges)]
    plain = (_USUAL, _UNUSED, _BYTE)
    both = zip(said.tokens, said.kinds, strict=True)
    marks = [token for token, kind in both if kind not in plain]
    return _byte_pairs(vocabulary, merges, TEKKEN_PATTERN, marks)


def _byte_pairs(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], pattern: str, marks: list[str]
) -> tokenizers.Tokenizer:
    """Return a tokenizer that splits text by a pattern and joins its bytes pair by pair."""
    from tokenizers import AddedToken, Regex, pre_tokenizers
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import BPE

    try:
        backend = Backend(BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    except Exception as error:  # noqa: BLE001 - the library raises nothing more particular
        raise ValueError(f"is damaged ({str(error)[:80]})") from error
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    return backend
