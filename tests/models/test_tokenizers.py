from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdforge.models.tokenizers import clip_tokenizer


@cache
def reference() -> Any:
    """The tokenizer of transformers over the same vocabulary, an independent assembly of it."""
    import json

    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    model = json.loads(clip_tokenizer().backend.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, pad_token="<|endoftext|>")


def test_known_texts_have_the_ids_that_clip_gives_them() -> None:
    tokenizer = clip_tokenizer()
    assert tokenizer("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert tokenizer("A  PHOTO\nof a\tcat") == [320, 1125, 539, 320, 2368]
    assert tokenizer("hello world!") == [3306, 1002, 256]
    assert tokenizer("") == []


def test_marks_and_comma_have_their_ids() -> None:
    tokenizer = clip_tokenizer()
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.comma) == (
        49406,
        49407,
        49407,
        267,
    )
    assert tokenizer("cat, dog") == [2368, 267, 1929]
    assert tokenizer.backend.get_vocab_size() == 49408


def test_marks_written_in_a_prompt_are_the_marks() -> None:
    assert clip_tokenizer()("a<|endoftext|>b") == [320, 49407, 321]


@pytest.mark.parametrize(
    "text",
    [
        "don't stop, we've 1234 things; it's 50%!!! (really?) [ok] {x} <lora:a:1>",
        "猫の写真 고양이 사진 一只猫",
        "🐱👩‍🚀🇨🇭 ☃️",
        "café naïve Ünïcödé ﬁne ß İstanbul",
        "e\u0301 \u200b zero width \ufeff",
        "a_b-c/d\\e|f\"g'h`i~",
        "<|startoftext|> twice <|endoftext|>",
        "x" * 300,
    ],
)
def test_odd_texts_have_the_ids_of_transformers_clip(text: str) -> None:
    wanted = reference()(text, add_special_tokens=False)["input_ids"]
    assert clip_tokenizer()(text) == wanted


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_the_ids_of_transformers_clip(text: str) -> None:
    assert clip_tokenizer()(text) == reference()(text, add_special_tokens=False)["input_ids"]
