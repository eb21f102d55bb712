from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdforge.prompt.schedule import TimedText, Timeline, index_at, schedule

# Ten steps unless a test says otherwise; a row is a prompt and its texts with their last calls.
Texts = list[tuple[int, str]]


def texts(prompt: str, timeline: Timeline | None = None) -> Texts:
    return [(timed.end, timed.text) for timed in schedule(prompt, timeline or Timeline(10))]


# Worked out by hand from the rules.
TABLE: list[tuple[str, Texts]] = [
    # Nothing that changes
    ("", [(10, "")]),
    ("a cat", [(10, "a cat")]),
    ("a (cat:1.3), [dog]", [(10, "a (cat:1.3), [dog]")]),
    ("((a [b]))", [(10, "((a [b]))")]),
    (r"\[a:b:3\]", [(10, r"\[a:b:3\]")]),
    ("time 12:30", [(10, "time 12:30")]),
    ("<lora:x:0.8> a", [(10, "<lora:x:0.8> a")]),
    # [from:to:when]
    ("[cat:dog:5]", [(5, "cat"), (10, "dog")]),
    ("a [cat:dog:5] sits", [(5, "a cat sits"), (10, "a dog sits")]),
    ("[a:b:0.5]", [(5, "a"), (10, "b")]),
    ("[a:b:.3]", [(3, "a"), (10, "b")]),
    ("[a:b:0.25]", [(2, "a"), (10, "b")]),
    ("[a:b:0.99]", [(9, "a"), (10, "b")]),
    ("[a:b:1]", [(1, "a"), (10, "b")]),
    ("[a:b:1.0]", [(10, "a")]),
    ("[a:b:1.]", [(10, "a")]),
    ("[a:b:10]", [(10, "a")]),
    ("[a:b:11]", [(10, "a")]),
    ("[a:b:1.5]", [(10, "a")]),
    ("[a:b:999999]", [(10, "a")]),
    ("[a:b:0]", [(10, "b")]),
    ("[a:b:0.0]", [(10, "b")]),
    ("[a:b:0.05]", [(10, "b")]),
    ("[a:b:-3]", [(10, "b")]),
    ("[a:b:-0.5]", [(10, "b")]),
    ("[a:b:+4]", [(4, "a"), (10, "b")]),
    ("[a:b: 4]", [(4, "a"), (10, "b")]),
    ("[a:b:4 ]", [(4, "a"), (10, "b")]),
    ("[a:b:\n4\t]", [(4, "a"), (10, "b")]),
    ("[a:b:2e0]", [(2, "a"), (10, "b")]),
    ("[a:b:1e1]", [(10, "a")]),
    ("[a:b:3e-1]", [(10, "b")]),
    ("[a:b:3.0e-1]", [(3, "a"), (10, "b")]),
    ("[a:b:1e999]", [(10, "a")]),
    ("[a:b:-1e999]", [(10, "b")]),
    ("[ a : b :4]", [(4, " a "), (10, " b ")]),
    ("[a, b:c, d:4]", [(4, "a, b"), (10, "c, d")]),
    ("[3:4:5]", [(5, "3"), (10, "4")]),
    # [to:when] and [from::when]
    ("[a:4]", [(4, ""), (10, "a")]),
    ("x[ a:4]", [(4, "x"), (10, "x a")]),
    ("[a:0.5]", [(5, ""), (10, "a")]),
    ("[a:1.3]", [(10, "")]),
    ("[a::4]", [(4, "a"), (10, "")]),
    ("x [a ::0.4]y", [(4, "x a y"), (10, "x y")]),
    ("[:a:4]", [(4, ""), (10, "a")]),
    ("[:4]", [(10, "")]),
    ("[::4]", [(10, "")]),
    # Several
    ("[a:b:3] [c:d:6]", [(3, "a c"), (6, "b c"), (10, "b d")]),
    ("[a:b:5] [c:d:5]", [(5, "a c"), (10, "b d")]),
    ("[a:b:6] [c:d:3]", [(3, "a c"), (6, "a d"), (10, "b d")]),
    ("[a:a:5]", [(10, "a")]),
    # Nested
    ("[a:[b:c:6]:3]", [(3, "a"), (6, "b"), (10, "c")]),
    ("[[a:b:3]:c:6]", [(3, "a"), (6, "b"), (10, "c")]),
    ("[a:[b:c:3]:6]", [(6, "a"), (10, "c")]),
    ("[[a:b:6]:c:3]", [(3, "a"), (10, "c")]),
    ("[[a::3]:[b:6]:5]", [(3, "a"), (6, ""), (10, "b")]),
    ("[a:[b:[c:d:6]:4]:2]", [(2, "a"), (4, "b"), (6, "c"), (10, "d")]),
    ("([a:b:5]:1.3)", [(5, "(a:1.3)"), (10, "(b:1.3)")]),
    ("[(a:1.2):(b:0.8):5]", [(5, "(a:1.2)"), (10, "(b:0.8)")]),
    ("[[a]:[b]:5]", [(5, "[a]"), (10, "[b]")]),
    ("[((a)):5]", [(5, ""), (10, "((a))")]),
    ("(x, [a:5])", [(5, "(x, )"), (10, "(x, a)")]),
    ("[x [a:b:5] y]", [(5, "[x a y]"), (10, "[x b y]")]),
    # Escapes
    (r"[\(a\):b:5]", [(5, r"\(a\)"), (10, "b")]),
    (r"[a\:b:c:5]", [(5, r"a\:b"), (10, "c")]),
    (r"[a\|b:5]", [(5, ""), (10, r"a\|b")]),
    (r"[a\]:b:5]", [(5, r"a\]"), (10, "b")]),
    (r"[a:b:5\]", [(10, r"[a:b:5\]")]),
    ("[a:b:5]\\", [(10, "[a:b:5]\\")]),
    ("[a:b:5]\\\n", [(10, "[a:b:5]\\\n")]),
    (r"\\[a:b:5]", [(5, r"\\a"), (10, r"\\b")]),
    # Alternation
    ("[a|b]", [(n, "ab"[(n - 1) % 2]) for n in range(1, 11)]),
    ("[a|b|c]", [(n, "abc"[(n - 1) % 3]) for n in range(1, 11)]),
    ("[a|]", [(n, ("a", "")[(n - 1) % 2]) for n in range(1, 11)]),
    ("[|a]", [(n, ("", "a")[(n - 1) % 2]) for n in range(1, 11)]),
    ("[|]", [(10, "")]),
    ("[a||]", [(1, "a"), (3, ""), (4, "a"), (6, ""), (7, "a"), (9, ""), (10, "a")]),
    ("[a|a]", [(10, "a")]),
    ("a [b|c] d", [(n, f"a {'bc'[(n - 1) % 2]} d") for n in range(1, 11)]),
    ("[(a:1.2)|b]", [(n, ("(a:1.2)", "b")[(n - 1) % 2]) for n in range(1, 11)]),
    ("[[a|b]|c]", [(n, ("a", "c")[(n - 1) % 2]) for n in range(1, 11)]),
    ("[c|[a|b]]", [(n, ("c", "b")[(n - 1) % 2]) for n in range(1, 11)]),
    ("[[a|b|c]|d]", [(n, ("a", "d", "c", "d", "b", "d")[(n - 1) % 6]) for n in range(1, 11)]),
    ("[a|b][c|d]", [(n, ("ac", "bd")[(n - 1) % 2]) for n in range(1, 11)]),
    ("[[a|b]:c:3]", [(1, "a"), (2, "b"), (3, "a"), (10, "c")]),
    ("[c:[a|b]:7]", [(7, "c"), (8, "b"), (9, "a"), (10, "b")]),
    ("[[a:b:4]|c]", [(n, ("ab"[n > 4], "c")[(n - 1) % 2]) for n in range(1, 11)]),
    ("([a|b])", [(n, ("(a)", "(b)")[(n - 1) % 2]) for n in range(1, 11)]),
    # Brackets that are no schedule
    ("[a:b]", [(10, "[a:b]")]),
    ("[a:b:c]", [(10, "[a:b:c]")]),
    ("[a:b:c:5]", [(10, "[a:b:c:5]")]),
    ("[a:b:5 x]", [(10, "[a:b:5 x]")]),
    ("[a:b:5%]", [(10, "[a:b:5%]")]),
    ("[a:b:]", [(10, "[a:b:]")]),
    ("[a:b:(5)]", [(10, "[a:b:(5)]")]),
    ("[a:b:1.2.3]", [(10, "[a:b:1.2.3]")]),
    ("[a:b:.]", [(10, "[a:b:.]")]),
    ("[5]", [(10, "[5]")]),
    ("[]", [(10, "[]")]),
    ("(a:b:5)", [(10, "(a:b:5)")]),
    ("(a:5)", [(10, "(a:5)")]),
    # Brackets that do not match are text; whole ones beside them still act
    ("a [b", [(10, "a [b")]),
    ("a b]", [(10, "a b]")]),
    ("[a:b:5", [(10, "[a:b:5")]),
    ("a:b:5]", [(10, "a:b:5]")]),
    ("(a [b:c:5]", [(5, "(a b"), (10, "(a c")]),
    ("[a [b:c:5]", [(5, "[a b"), (10, "[a c")]),
    ("[b:c:5] a)", [(5, "b a)"), (10, "c a)")]),
    ("[b:c:5]]", [(5, "b]"), (10, "c]")]),
    ("[(a:b:5]", [(10, "[(a:b:5]")]),
    ("[a):b:5]", [(10, "[a):b:5]")]),
    ("[a (b] c:d:5)", [(10, "[a (b] c:d:5)")]),
    ("[x [a:b] y:z:5]", [(10, "[x [a:b] y:z:5]")]),
    ("[x (a:b:c) y:5]", [(10, "[x (a:b:c) y:5]")]),
    ("[x (a:1.2) y:5]", [(5, ""), (10, "x (a:1.2) y")]),
    # A bar outside of an alternation makes all of it text
    ("a|b", [(10, "a|b")]),
    ("(a|b)", [(10, "(a|b)")]),
    ("[a|b:5]", [(10, "[a|b:5]")]),
    ("[a:b|c:5]", [(10, "[a:b|c:5]")]),
    ("[a:b:5] | c", [(10, "[a:b:5] | c")]),
    ("[a:b:5] [c|d", [(10, "[a:b:5] [c|d")]),
    ("{a|b} [c:d:5]", [(10, "{a|b} [c:d:5]")]),
    ("[{a:b:5]}", [(5, "{a}"), (10, "b}")]),
]


@pytest.mark.parametrize(("prompt", "expected"), TABLE, ids=[repr(row[0]) for row in TABLE])
def test_prompts_stand_for_texts_over_time(prompt: str, expected: Texts) -> None:
    assert texts(prompt) == expected


HIRES = Timeline(8, first_pass=20)


@pytest.mark.parametrize(
    ("prompt", "timeline", "expected"),
    [
        # The second pass of hires fix: whole numbers go on counting, 1.0 to 2.0 is its own share
        ("[a:b:10]", HIRES, [(8, "b")]),
        ("[a:b:20]", HIRES, [(8, "b")]),
        ("[a:b:24]", HIRES, [(4, "a"), (8, "b")]),
        ("[a:b:28]", HIRES, [(8, "a")]),
        ("[a:b:40]", HIRES, [(8, "a")]),
        ("[a:b:0.5]", HIRES, [(8, "b")]),
        ("[a:b:1.0]", HIRES, [(8, "b")]),
        ("[a:b:1.5]", HIRES, [(4, "a"), (8, "b")]),
        ("[a:b:1.25]", HIRES, [(2, "a"), (8, "b")]),
        ("[a:b:2.0]", HIRES, [(8, "a")]),
        ("[a|b]", Timeline(3, first_pass=20), [(1, "a"), (2, "b"), (3, "a")]),
        # A second-order sampler asks twice a step
        ("[a:b:0.5]", Timeline(20), [(10, "a"), (20, "b")]),
        ("[a:b:5]", Timeline(20), [(5, "a"), (20, "b")]),
        # The old timeline: below 1 is a share, whatever its spelling, and passes are alike
        ("[a:b:0.5]", Timeline(10, old=True), [(5, "a"), (10, "b")]),
        ("[a:b:5]", Timeline(10, old=True), [(5, "a"), (10, "b")]),
        ("[a:b:1.5]", Timeline(10, old=True), [(1, "a"), (10, "b")]),
        ("[a:b:5.0]", Timeline(10, old=True), [(5, "a"), (10, "b")]),
        ("[a:b:3e-1]", Timeline(10, old=True), [(3, "a"), (10, "b")]),
        ("[a:b:0.5]", Timeline(8, first_pass=20, old=True), [(10, "a"), (20, "b")]),
        ("[a:b:1]", Timeline(1), [(1, "a")]),
        ("[a:b:0.9]", Timeline(1), [(1, "b")]),
    ],
)
def test_numbers_become_calls_of_the_pass(prompt: str, timeline: Timeline, expected: Texts) -> None:
    assert texts(prompt, timeline) == expected


@pytest.mark.parametrize(
    ("ends", "indices"),
    [
        ((5,), [0, 0, 0, 0, 0, 0, 0]),
        ((2, 5), [0, 0, 0, 1, 1, 1, 1]),
        ((1, 2, 3), [0, 0, 1, 2, 2, 2, 2]),
        ((5, 5), [0, 0, 0, 0, 0, 0, 1]),
    ],
)
def test_a_text_holds_up_to_and_with_its_end(ends: tuple[int, ...], indices: list[int]) -> None:
    assert [index_at(ends, call) for call in range(7)] == indices


pieces = st.sampled_from(
    ["a", "b c", " ", "[", "]", "(", ")", ":", "|", "3", "0.5", r"\(", "\\", "\n", ":3]", "1e9"]
)


@given(st.lists(pieces, max_size=40).map("".join), st.integers(1, 30))
def test_any_prompt_gives_texts_in_order_that_end_with_the_pass(prompt: str, calls: int) -> None:
    found = schedule(prompt, Timeline(calls))
    ends = [timed.end for timed in found]
    assert ends == sorted(set(ends))
    assert ends[0] >= 1
    assert ends[-1] == calls
    assert all(first.text != second.text for first, second in zip(found, found[1:], strict=False))


@given(st.text(alphabet=st.characters(exclude_characters="[]|\\")))
def test_text_without_square_brackets_and_bars_survives(text: str) -> None:
    assert schedule(text, Timeline(10)) == (TimedText(10, text),)


words = st.text(alphabet="ab ,(){}<>#", max_size=8).filter(lambda text: text.count("(") == 0)


@given(words, words, st.integers(1, 9), st.integers(0, 40))
def test_an_edit_deep_in_brackets_is_the_same_edit(
    before: str, after: str, when: int, depth: int
) -> None:
    if "(" in before + after or ")" in before + after or before == after:
        return
    prompt = "(" * depth + f"[{before}:{after}:{when}]" + ")" * depth
    wrapped = ["(" * depth + text + ")" * depth for text in (before, after)]
    assert texts(prompt) == [(when, wrapped[0]), (10, wrapped[1])]


@pytest.mark.parametrize("piece", ["[a:", "([a|", "[", "[[a:b:3]", "(", "[a|b]", "[a:b]"])
def test_long_prompts_take_time_in_proportion(piece: str) -> None:
    started = time.process_time()
    schedule(piece * 10_000, Timeline(20))
    schedule("[" * 20_000 + ":3]" * 20_000, Timeline(20))
    assert time.process_time() - started < 5.0
