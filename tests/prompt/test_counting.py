from __future__ import annotations

import pytest

from sdforge.core.settings import Settings
from sdforge.prompt.counting import count_prompt
from tests.prompt.conftest import WordTokenizer


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", (0, 75)),
        ("a cat", (2, 75)),
        ("a cat <lora:x:1> # with a lora", (2, 75)),
        ("a b c AND d", (3, 75)),
        ("a AND b c d :0.5", (3, 75)),
        ("[a:b c d:10]", (3, 75)),
        ("[a b c d:10]", (4, 75)),
        ("[a b|c|d e f]", (3, 75)),
        ("a BREAK b", (76, 150)),
    ],
)
def test_the_longest_text_of_a_prompt_counts(
    prompt: str, expected: tuple[int, int], tokenizer: WordTokenizer
) -> None:
    assert count_prompt(prompt, tokenizer, Settings(), steps=20) == expected


def test_an_edit_beyond_the_last_step_does_not_count(tokenizer: WordTokenizer) -> None:
    prompt = "[a:b c d:10]"
    assert count_prompt(prompt, tokenizer, Settings(), steps=5) == (1, 75)


def test_negative_prompts_have_no_parts(tokenizer: WordTokenizer) -> None:
    assert count_prompt("a AND b", tokenizer, Settings(), steps=5, is_negative=True) == (3, 75)


def test_styles_count_unless_a_setting_says_no(tokenizer: WordTokenizer) -> None:
    styles = ["oil on {prompt}"]
    assert count_prompt("a", tokenizer, Settings(), steps=5, styles=styles) == (3, 75)
    without = Settings(include_styles_into_token_counters=False)
    assert count_prompt("a", tokenizer, without, steps=5, styles=styles) == (1, 75)


def test_comments_and_brackets_count_where_settings_keep_them(tokenizer: WordTokenizer) -> None:
    kept = Settings(enable_prompt_comments=False)
    assert count_prompt("a # b c", tokenizer, kept, steps=5) == (4, 75)
    literal = Settings(emphasis="None")
    assert count_prompt("( a : 1.2 )", tokenizer, literal, steps=5) == (5, 75)
