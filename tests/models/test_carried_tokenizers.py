"""Tokenizers that come with a model: found, read in each form, and refused where they are wrong."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from scripts.tiny_models import words
from scripts.tiny_models.files import write_safetensors
from sdforge.core.errors import CorruptCheckpoint, MissingModel
from sdforge.models.carried_tokenizers import (
    JSON,
    SENTENCEPIECE,
    TEKKEN,
    TEKKEN_PATTERN,
    Marks,
    TokenizerFile,
    carried_tokenizer,
    find_tokenizer,
)
from sdforge.models.checkpoint import read_header
from sdforge.models.sentencepiece import merges_of
from sdforge.models.tokenizers import Tokenizer, byte_letters

GEMMA = Marks("<bos>", "<eos>", "<pad>")
MISTRAL = Marks("<s>", "</s>", "<pad>")
SPECIALS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>")
# In order of rank, behind the 256 bytes.
RANKED = (b" c", b"at", b" cat", b"\xc3\xbc", b"in")
PATTERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


def read(path: Path, form: str, marks: Marks, rows: int = 512) -> Tokenizer:
    return carried_tokenizer(TokenizerFile(path, 0, path.stat().st_size, form), marks, rows)


def tekken() -> str:
    """The form of Mistral's tekken.json, whose vocabulary is cut at `default_vocab_size`."""
    tokens = [*(bytes([byte]) for byte in range(256)), *RANKED, b"beyond"]
    return json.dumps(
        {
            "config": {
                "pattern": PATTERN,
                "default_vocab_size": 8 + 256 + len(RANKED),
                "default_num_special_tokens": 8,
            },
            "vocab": [
                {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
                for rank, token in enumerate(tokens)
            ],
            "special_tokens": [
                {"rank": rank, "token_str": text} for rank, text in enumerate(SPECIALS)
            ],
        }
    )


def test_sentencepiece_joins_the_best_pieces_and_spells_the_rest_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / SENTENCEPIECE
    path.write_bytes(words.sentencepiece_model())
    texts = [text for text, _, _ in words.pieces()]
    tokenizer = read(path, SENTENCEPIECE, GEMMA)
    found = [texts[number] for number in tokenizer("a photo of<bos>\\n\\nü")]
    # The first "a" has no space in front; "▁photo" is joined from "▁pho" and "to".
    assert found == ["a", "▁photo", "▁of", "<bos>", "\\n\\n", "<0xC3>", "<0xBC>"]
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (2, 1, 0)


def test_tekken_counts_from_behind_its_special_tokens(tmp_path: Path) -> None:
    path = tmp_path / TEKKEN
    path.write_text(tekken())
    tokenizer = read(path, TEKKEN, MISTRAL)
    cat = 8 + 256 + RANKED.index(b" cat")
    umlaut = 8 + 256 + RANKED.index(b"\xc3\xbc")
    assert tokenizer("[INST] catü!") == [3, cat, umlaut, 8 + ord("!")]
    assert tokenizer.vocabulary == 8 + 256 + len(RANKED)


def write_gguf(path: Path, pre: str = "tekken", kinds: int | None = None) -> Path:
    """The vocabulary of `tekken()` as llama.cpp's converter puts it into a file's header."""
    letters = byte_letters()
    ranked = [*(bytes([byte]) for byte in range(256)), *RANKED]
    spelled = ["".join(letters[byte] for byte in one) for one in ranked]
    marks = [*SPECIALS, "<SPECIAL_6>", "<SPECIAL_7>"]
    merges = merges_of({text: rank for rank, text in enumerate(spelled)})
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*marks, *spelled])
    writer.add_token_types([3] * len(marks) + [1] * (len(spelled) if kinds is None else kinds))
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_header_of_a_gguf_file_gives_what_tekken_gives(tmp_path: Path) -> None:
    described = json.loads(tekken())
    described["config"]["pattern"] = TEKKEN_PATTERN
    path = tmp_path / TEKKEN
    path.write_text(json.dumps(described))
    wanted = read(path, TEKKEN, MISTRAL)
    header = read_header(write_gguf(tmp_path / "sub.gguf"))
    source = find_tokenizer(header, "Mistral")
    assert source.path.name == TEKKEN, "a file beside it comes first"
    path.unlink()
    source = find_tokenizer(header, "Mistral")
    found = carried_tokenizer(source, MISTRAL, 512)
    assert (found.bos, found.eos, found.pad, found.vocabulary) == (
        wanted.bos, wanted.eos, wanted.pad, wanted.vocabulary,
    )  # fmt: skip
    made = random.Random(4)
    alphabet = " catinüABxy0,.!\n日[INST]"
    texts = ["[INST] catü![/INST]", *("".join(made.choices(alphabet, k=30)) for _ in range(300))]
    assert [found(text) for text in texts] == [wanted(text) for text in texts]


def test_a_gguf_files_own_tokenizer_is_checked(tmp_path: Path) -> None:
    other = read_header(write_gguf(tmp_path / "other.gguf", pre="qwen2"))
    with pytest.raises(MissingModel, match="without the tokenizer of Mistral"):
        find_tokenizer(other, "Mistral")
    short = find_tokenizer(read_header(write_gguf(tmp_path / "short.gguf", kinds=5)), "Mistral")
    with pytest.raises(CorruptCheckpoint, match="describes no tokenizer"):
        carried_tokenizer(short, MISTRAL, 512)
    good = find_tokenizer(read_header(write_gguf(tmp_path / "good.gguf")), "Mistral")
    with pytest.raises(CorruptCheckpoint, match="another model: it counts to"):
        carried_tokenizer(good, MISTRAL, 100)


def test_a_description_of_the_tokenizers_library_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / SENTENCEPIECE
    path.write_bytes(words.sentencepiece_model())
    tokenizer = read(path, SENTENCEPIECE, GEMMA)
    tokenizer.backend.enable_padding(length=40)
    tokenizer.backend.enable_truncation(3)
    described = tmp_path / JSON
    tokenizer.backend.save(str(described))
    again = read(described, JSON, GEMMA)
    tokenizer.backend.no_padding()
    tokenizer.backend.no_truncation()
    for text in ("a photo of a cat (watercolour:1.2)", "ü", ""):
        assert again(text) == tokenizer(text)


@pytest.mark.parametrize(
    ("form", "content", "fault"),
    [
        (JSON, b"{}", "no description of a tokenizer"),
        (JSON, b"\xff\x00", "no description of a tokenizer"),
        (SENTENCEPIECE, b"", "no pieces"),
        (SENTENCEPIECE, b"\x0a\xff\xff\xff\xff\x0f", "no SentencePiece model"),
        (SENTENCEPIECE, words.sentencepiece_model()[:-8], "another kind than byte pairs"),
        (TEKKEN, b"{}", "damaged"),
        (TEKKEN, b"not json", "damaged"),
        (TEKKEN, b"[1]", "damaged"),
    ],
)
def test_what_is_no_tokenizer_is_refused_with_the_reason(
    tmp_path: Path, form: str, content: bytes, fault: str
) -> None:
    path = tmp_path / form
    path.write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match=fault):
        read(path, form, GEMMA)


def test_another_models_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / TEKKEN
    path.write_text(tekken())
    with pytest.raises(CorruptCheckpoint, match="another model: it does not know <bos>"):
        read(path, TEKKEN, GEMMA)


def test_the_files_own_comes_first_then_the_one_of_its_name(tmp_path: Path) -> None:
    table = {"model.embed_tokens.weight": torch.zeros(512, 4)}
    bare = write_safetensors(tmp_path / "gemma.safetensors", table)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert find_tokenizer(read_header(bare), "Gemma 2").path.name == "tokenizer.json"
    (tmp_path / "gemma.tokenizer.model").write_bytes(words.sentencepiece_model())
    found = find_tokenizer(read_header(bare), "Gemma 2")
    assert (found.path.name, found.form) == ("gemma.tokenizer.model", SENTENCEPIECE)
    whole = write_safetensors(tmp_path / "whole.safetensors", table | words.carried())
    inside = find_tokenizer(read_header(whole), "Gemma 2")
    assert (inside.path, inside.form) == (whole, SENTENCEPIECE)
    assert whole.read_bytes()[inside.start : inside.end] == words.sentencepiece_model()


def test_without_any_the_error_names_what_would_do(tmp_path: Path) -> None:
    table = {"model.embed_tokens.weight": torch.zeros(512, 4)}
    header = read_header(write_safetensors(tmp_path / "gemma.safetensors", table))
    with pytest.raises(MissingModel, match=r"tokenizer of Gemma 2.*gemma\.tokenizer\.json beside"):
        find_tokenizer(header, "Gemma 2")
