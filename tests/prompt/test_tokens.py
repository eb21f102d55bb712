from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdforge.core.errors import InvalidRequest
from sdforge.prompt.tokens import (
    CHUNK_TOKENS,
    Chunk,
    Token,
    TokenizerLike,
    chunk_prompt,
    count_tokens,
    weigh_tokens,
)
from tests.prompt.conftest import WordTokenizer


def words(count: int, start: int = 0) -> str:
    return " ".join(f"w{number}" for number in range(start, start + count))


def content(chunk: Chunk, tokenizer: TokenizerLike) -> tuple[int, ...]:
    """The ids between the start mark and the first end mark."""
    return chunk.ids[1 : chunk.ids.index(tokenizer.eos)]


def lengths(text: str, tokenizer: TokenizerLike, comma_backtrack: int = 20) -> list[int]:
    chunks = chunk_prompt(text, tokenizer, comma_backtrack=comma_backtrack)
    return [len(content(chunk, tokenizer)) for chunk in chunks]


def test_a_chunk_is_marks_tokens_and_padding(tokenizer: WordTokenizer) -> None:
    (chunk,) = chunk_prompt("a (cat:1.3)", tokenizer)
    a, cat = tokenizer("a cat")
    assert chunk.ids == (tokenizer.bos, a, cat, tokenizer.eos, *[tokenizer.pad] * 73)
    assert chunk.weights == (1.0, 1.0, 1.3, *[1.0] * 74)


def test_an_empty_prompt_is_one_empty_chunk(tokenizer: WordTokenizer) -> None:
    (chunk,) = chunk_prompt("", tokenizer)
    assert chunk.ids == (tokenizer.bos, tokenizer.eos, *[tokenizer.pad] * 75)
    assert chunk.weights == (1.0,) * 77


def test_a_full_chunk_ends_with_the_end_mark_alone(tokenizer: WordTokenizer) -> None:
    (chunk,) = chunk_prompt(words(75), tokenizer)
    assert len(chunk.ids) == 77
    assert chunk.ids[-1] == tokenizer.eos
    assert tokenizer.pad not in chunk.ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (words(74), [74]),
        (words(75), [75]),
        (words(76), [75, 1]),
        (words(151), [75, 75, 1]),
        # The comma is token 61 of the chunk, 15 back when it is full: the 14 words since then move.
        (words(60) + ", " + words(30, 60), [61, 30]),
        # 20 back just moves, 21 back stays.
        (words(55) + ", " + words(20, 55), [56, 20]),
        (words(54) + ", " + words(21, 54), [75, 1]),
        # A comma right at the end of a chunk moves nothing.
        (words(74) + ", " + words(3, 74), [75, 3]),
        # A comma as the 76th token begins the next chunk.
        (words(60) + ", " + words(14, 60) + ", " + words(3, 74), [75, 4]),
        # Only the last comma counts.
        (words(58) + ", " + words(9, 58) + ", " + words(10, 67), [69, 10]),
        ("a BREAK b", [1, 1]),
        ("a BREAK", [1]),
        ("BREAK a", [0, 1]),
        ("BREAK", [0]),
        ("a BREAK BREAK b", [1, 0, 1]),
        (words(80) + " BREAK " + words(2), [75, 5, 2]),
    ],
)
def test_prompts_are_cut(text: str, expected: list[int], tokenizer: WordTokenizer) -> None:
    assert lengths(text, tokenizer) == expected


def test_no_token_is_lost_or_moved_out_of_order(tokenizer: WordTokenizer) -> None:
    text = ", ".join(words(number % 23 + 1, 40 * number) for number in range(25))
    chunks = chunk_prompt(text, tokenizer)
    assert len(chunks) > 2
    assert [token for chunk in chunks for token in content(chunk, tokenizer)] == tokenizer(text)


def test_the_setting_says_how_far_back_a_comma_may_be(tokenizer: WordTokenizer) -> None:
    text = words(60) + ", " + words(30, 60)
    assert lengths(text, tokenizer, comma_backtrack=0) == [75, 16]
    assert lengths(text, tokenizer, comma_backtrack=14) == [75, 16]
    assert lengths(text, tokenizer, comma_backtrack=15) == [61, 30]
    far = words(2) + ", " + words(90, 2)
    assert lengths(far, tokenizer, comma_backtrack=74) == [3, 75, 15]


def test_weights_move_with_their_tokens(tokenizer: WordTokenizer) -> None:
    _, second = chunk_prompt(words(60) + ", (" + words(30, 60) + ":1.5)", tokenizer)
    assert second.weights[1:31] == (1.5,) * 30
    assert second.weights[31:] == (1.0,) * 46


@pytest.mark.parametrize(
    ("emphasis", "weights", "count"),
    [
        ("Original", [1.3], 1),
        ("No norm", [1.3], 1),
        ("Ignore", [1.0], 1),
        ("None", [1.0], 1),
    ],
)
def test_emphasis_modes_weigh(
    emphasis: str, weights: list[float], count: int, tokenizer: WordTokenizer
) -> None:
    (chunk,) = chunk_prompt("(cat:1.3)", tokenizer, emphasis=emphasis)
    assert list(chunk.weights[1 : 1 + count]) == weights
    literal = emphasis == "None"
    assert content(chunk, tokenizer) == tuple(tokenizer("(cat:1.3)" if literal else "cat"))


def test_without_emphasis_break_is_a_word(tokenizer: WordTokenizer) -> None:
    assert len(chunk_prompt("a BREAK b", tokenizer, emphasis="None")) == 1
    assert len(chunk_prompt("a BREAK b", tokenizer, emphasis="Ignore")) == 2


def test_an_unknown_emphasis_mode_is_refused(tokenizer: WordTokenizer) -> None:
    with pytest.raises(InvalidRequest, match="No norm"):
        chunk_prompt("a", tokenizer, emphasis="Loud")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (0, 75)),
        ("a (b:1.2), c", (4, 75)),
        (words(75), (75, 75)),
        (words(76), (76, 150)),
        ("a BREAK b", (76, 150)),
        ("a BREAK", (75, 75)),
        (words(60) + ", " + words(30, 60), (75 + 30, 150)),
    ],
)
def test_tokens_are_counted_with_the_padding_between_chunks(
    text: str, expected: tuple[int, int], tokenizer: WordTokenizer
) -> None:
    assert count_tokens(text, tokenizer) == expected


def test_a_prompt_in_one_piece_has_one_end_mark_and_the_least_length(
    tokenizer: WordTokenizer,
) -> None:
    a, cat, dog = tokenizer("a cat dog")
    whole = weigh_tokens("a (cat:1.3) BREAK dog", tokenizer, least=8)
    assert whole.ids == (a, cat, dog, tokenizer.eos, *[tokenizer.pad] * 4)
    assert whole.weights == (1.0, 1.3, *[1.0] * 6)
    long = weigh_tokens(words(300), tokenizer, least=256)
    assert len(long.ids) == len(long.weights) == 301
    assert long.ids[-1] == tokenizer.eos


def test_modes_of_emphasis_count_in_one_piece_too(tokenizer: WordTokenizer) -> None:
    assert set(weigh_tokens("a (cat:1.3)", tokenizer, emphasis="Ignore").weights) == {1.0}
    assert set(weigh_tokens("(cat:1.3)", tokenizer, emphasis="None").weights) == {1.0}
    with pytest.raises(InvalidRequest):
        weigh_tokens("a", tokenizer, emphasis="loud")


def test_a_repeated_prompt_is_not_tokenized_again() -> None:
    class Counting(WordTokenizer):
        calls = 0

        def __call__(self, text: str) -> list[int]:
            self.calls += 1
            return super().__call__(text)

    tokenizer = Counting()
    first = chunk_prompt("a (b) c", tokenizer)
    calls = tokenizer.calls
    first.clear()
    assert chunk_prompt("a (b) c", tokenizer)
    assert tokenizer.calls == calls
    assert chunk_prompt("a (b) c", WordTokenizer()) != []


@given(st.text(alphabet=st.sampled_from(list("ab ,()[]\\:1.BREAK")), max_size=400))
def test_any_text_gives_whole_chunks(text: str) -> None:
    tokenizer = WordTokenizer()
    chunks = chunk_prompt(text, tokenizer)
    assert chunks
    for chunk in chunks:
        assert len(chunk.ids) == len(chunk.weights) == CHUNK_TOKENS + 2
        assert chunk.ids[0] == tokenizer.bos
        assert chunk.ids.count(tokenizer.eos) == 1
    tokens, room = count_tokens(text, tokenizer)
    assert tokens <= room == max(1, -(-tokens // 75)) * 75
    assert room in (len(chunks) * 75, (len(chunks) + 1) * 75)


def test_prompt_loads_without_torch() -> None:
    code = "import sys, sdforge.prompt.tokens; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class GroupTokenizer:
    """Words in capitals are groups of as many ids as they have letters."""

    bos, eos, pad, comma = 1, 2, 3, 9

    def __init__(self) -> None:
        self._words = WordTokenizer()

    def __call__(self, text: str) -> list[Token]:
        found: list[Token] = []
        for word in text.split():
            group = tuple(range(1000, 1000 + len(word)))
            found += [group] if word.isupper() else self._words(word)
        return found


def test_a_group_that_does_not_fit_begins_a_chunk_whole() -> None:
    chunks = chunk_prompt("a " * 73 + "(EMB:1.5) b", GroupTokenizer())
    assert [len(chunk.ids) for chunk in chunks] == [77, 77]
    assert chunks[1].ids[1:4] == (1000, 1001, 1002)
    assert chunks[1].weights[1:5] == (1.5, 1.5, 1.5, 1.0)
    assert all(number < 1000 for number in chunks[0].ids)
    assert chunk_prompt("a " * 72 + "EMB", GroupTokenizer())[0].ids[73:76] == (1000, 1001, 1002)
