"""Embedding files of all formats, which of them a model can use, and where prompts name them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sdforge.core.errors import CorruptCheckpoint, SdforgeError, UnsupportedCheckpoint
from sdforge.core.paths import Paths
from sdforge.models.adapters.embedding import bundled_embedding, read_embedding
from sdforge.models.adapters.embedding_library import (
    EmbeddingLibrary,
    EmbeddingTokenizer,
    width_problem,
)
from sdforge.models.tokenizers import clip_tokenizer

TABLE = torch.arange(6.0).view(2, 3)


def parameters() -> nn.ParameterDict:
    return nn.ParameterDict({"*": nn.Parameter(TABLE)})


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("pt", {"string_to_param": {"*": TABLE}, "string_to_token": {"*": 265}, "step": 7}),
        ("pt", {"string_to_param": {"*": nn.Parameter(TABLE)}, "name": "x"}),
        ("pt", {"string_to_param": parameters()}),
        ("bin", {"<cat-toy>": TABLE}),
        ("safetensors", {"emb_params": TABLE}),
        ("safetensors", {"<cat-toy>": TABLE}),
    ],
)
def test_every_format_is_read(tmp_path: Path, suffix: str, content: dict[str, Any]) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix == "safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    found = read_embedding(path)
    assert torch.equal(found.vectors[""], TABLE)
    assert (found.count, found.widths) == (2, {"": 3})
    assert found.facts == ({"step": 7} if "step" in content else {})


def test_a_single_vector_may_have_one_dimension(tmp_path: Path) -> None:
    torch.save({"<x>": torch.ones(3)}, tmp_path / "x.bin")
    assert read_embedding(tmp_path / "x.bin").vectors[""].shape == (1, 3)


def test_pairs_for_two_text_encoders_are_read(tmp_path: Path) -> None:
    save_file({"clip_l": TABLE, "clip_g": torch.ones(2, 5)}, tmp_path / "x.safetensors")
    assert read_embedding(tmp_path / "x.safetensors").widths == {"clip_l": 3, "clip_g": 5}
    save_file({"clip_l": TABLE, "clip_g": torch.ones(4, 5)}, tmp_path / "y.safetensors")
    with pytest.raises(UnsupportedCheckpoint, match="different numbers"):
        read_embedding(tmp_path / "y.safetensors")


class Evil:
    """What a pickle can do when it is read without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("evil-was-here"),))


def test_pickles_that_would_run_code_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"string_to_param": {"*": TABLE}, "more": Evil()}, tmp_path / "x.pt")
    with pytest.raises(CorruptCheckpoint, match="without running code"):
        read_embedding(tmp_path / "x.pt")
    assert not Path("evil-was-here").exists()


@pytest.mark.parametrize("content", [{"a": TABLE, "b": TABLE}, {"a": 1}, [1], {"a": TABLE.int()}])
def test_other_files_are_no_embeddings(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UnsupportedCheckpoint, match="no embedding"):
        read_embedding(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(b"rubbish")
    with pytest.raises(SdforgeError, match=r"damaged|no embedding"):
        read_embedding(tmp_path / "x.pt")


def test_bundled_ones_are_of_the_same_formats() -> None:
    assert torch.equal(bundled_embedding({"string_to_param.*": TABLE}, "x").vectors[""], TABLE)
    pair = bundled_embedding({"clip_l": TABLE, "clip_g": TABLE}, "x")
    assert set(pair.vectors) == {"clip_l", "clip_g"}


@pytest.mark.parametrize(
    ("found", "wanted", "fits"),
    [
        ({"": 768}, (768,), True),
        ({"": 1024}, (768,), False),
        ({"clip_l": 768, "clip_g": 1280}, (768, 1280), True),
        ({"clip_l": 768, "clip_g": 1280}, (768,), False),
        ({"": 768}, (768, 1280), False),
    ],
)
def test_widths_decide_which_model_an_embedding_is_for(
    found: dict[str, int], wanted: tuple[int, ...], fits: bool
) -> None:
    problem = width_problem(found, wanted)
    assert (problem is None) == fits
    if problem:
        assert "have width" in problem


def test_the_library_lists_what_the_model_can_use_and_why_not_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "embeddings"
    folder.mkdir()
    save_file({"emb_params": torch.ones(2, 32)}, folder / "good.safetensors")
    save_file({"emb_params": torch.ones(2, 64)}, folder / "wide.safetensors")
    save_file({"emb_params": torch.ones(76, 32)}, folder / "long.safetensors")
    torch.save({"string_to_param": {"*": torch.ones(1, 32)}, "step": 3}, folder / "old.pt")
    (folder / "bad.pt").write_bytes(b"x")
    library = EmbeddingLibrary(Paths.under(tmp_path))
    assert {info.name for info in library.usable()} == {"good", "wide", "old"}
    library.fit((32,))
    usable = {info.name: info for info in library.usable()}
    assert {name: (info.count, info.width) for name, info in usable.items()} == {
        "good": (2, 32),
        "old": (1, 32),
    }
    assert usable["old"].facts == {"step": 3}
    reasons = {info.name: reason for info, reason in library.skipped()}
    assert reasons["wide"] == "its vectors have width 64, the model's text encoder takes 32"
    assert "76 vectors" in reasons["long"]
    assert set(reasons) == {"wide", "long", "bad"}
    before = library.embeddings()
    library.refresh()
    assert library.embeddings() is before
    (folder / "good.safetensors").unlink()
    library.refresh()
    assert {info.name for info in library.usable()} == {"old"}


def tokens(names: dict[str, int], text: str) -> list[int | tuple[int, ...]]:
    base = clip_tokenizer()
    return EmbeddingTokenizer(base, names.items(), first_id=base.vocabulary)(text)


def test_names_are_found_in_any_case_and_not_inside_words() -> None:
    first = clip_tokenizer().vocabulary
    plain = clip_tokenizer()
    assert tokens({"Cat": 2}, "a CAT, cats") == [
        *plain("a"),
        (first, first + 1),
        *plain(", cats"),
    ]
    assert tokens({"bad_hands-5": 1}, "bad_hands-5") == [(first,)]


def test_the_longest_name_wins() -> None:
    first = clip_tokenizer().vocabulary
    assert tokens({"old": 1, "old man": 3}, "old man old") == [
        (first + 1, first + 2, first + 3),
        (first,),
    ]
