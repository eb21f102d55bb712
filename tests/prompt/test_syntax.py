from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdforge.prompt.syntax import Break, Span, parse_emphasis

B = Break()
R, S = 1.1, 1 / 1.1

# Worked out by hand from the rules; a tuple is a span.
TABLE: list[tuple[str, list[tuple[str, float] | Break]]] = [
    # Plain text
    ("", [("", 1.0)]),
    ("a cat", [("a cat", 1.0)]),
    (" a  cat\n", [(" a  cat\n", 1.0)]),
    ("猫, кот 🐈", [("猫, кот 🐈", 1.0)]),
    ("a: b", [("a: b", 1.0)]),
    ("a:1.3", [("a:1.3", 1.0)]),
    ("::", [("::", 1.0)]),
    # Round and square brackets
    ("(a)", [("a", R)]),
    ("[a]", [("a", S)]),
    ("x (a) y", [("x ", 1.0), ("a", R), (" y", 1.0)]),
    ("x [a] y", [("x ", 1.0), ("a", S), (" y", 1.0)]),
    ("((a))", [("a", R**2)]),
    ("(((a)))", [("a", R**3)]),
    ("[[a]]", [("a", S**2)]),
    ("([a])", [("a", R * S)]),
    ("[(a)]", [("a", R * S)]),
    ("(a (b) c)", [("a ", R), ("b", R**2), (" c", R)]),
    ("(a)(b)", [("ab", R)]),
    ("(a) (b)", [("a", R), (" ", 1.0), ("b", R)]),
    ("()", [("", 1.0)]),
    ("a()b", [("ab", 1.0)]),
    ("a[]b", [("ab", 1.0)]),
    # Numbers
    ("(a:1.3)", [("a", 1.3)]),
    ("(a:2)", [("a", 2.0)]),
    ("(a:.5)", [("a", 0.5)]),
    ("(a:1.)", [("a", 1.0)]),
    ("(a:0)", [("a", 0.0)]),
    ("(a:-1)", [("a", -1.0)]),
    ("(a:+1.2)", [("a", 1.2)]),
    ("(a: 1.3 )", [("a", 1.3)]),
    ("(a :1.3)", [("a ", 1.3)]),
    ("(a:1.0) b", [("a b", 1.0)]),
    ("(a:1.2)(b:1.2)", [("ab", 1.2)]),
    ("(a:1.3) (b:0.7)", [("a", 1.3), (" ", 1.0), ("b", 0.7)]),
    ("((a:1.3))", [("a", 1.3 * R)]),
    ("((a:1.3) b:0.5)", [("a", 1.3 * 0.5), (" b", 0.5)]),
    ("[(a:1.3)]", [("a", 1.3 * S)]),
    ("(a:b:1.3)", [("a:b", 1.3)]),
    ("(a, b and c:1.4), d", [("a, b and c", 1.4), (", d", 1.0)]),
    ("(:1.3)", [("", 1.0)]),
    ("(a:1.3", [("a:1.3", R)]),
    ("a:1.3)", [("a:1.3)", 1.0)]),
    # What is no number is text
    ("(a:b)", [("a:b", R)]),
    ("(a:1.2.3)", [("a:1.2.3", R)]),
    ("(a:1e3)", [("a:1e3", R)]),
    ("(a:--1)", [("a:--1", R)]),
    ("(a:)", [("a:", R)]),
    ("(a:.)", [("a:.", R)]),
    ("(a:x3.2)", [("a:x3.2", R)]),
    # A number weighs round brackets only
    ("[a:1.3]", [("a:1.3", S)]),
    ("[a:1.3)", [("a:1.3)", S)]),
    ("[a:b:0.5]", [("a:b:0.5", S)]),
    # Brackets that do not match
    ("(a", [("a", R)]),
    ("((a", [("a", R**2)]),
    ("[a", [("a", S)]),
    ("x (a, b", [("x ", 1.0), ("a, b", R)]),
    ("a)", [("a)", 1.0)]),
    ("a]", [("a]", 1.0)]),
    (")(", [(")", 1.0)]),
    ("(a]", [("a]", R)]),
    ("[a)", [("a)", S)]),
    ("(a))", [("a", R), (")", 1.0)]),
    ("(a [b) c]", [("a ", R), ("b", R * S), (" c", S)]),
    ("(a (b:1.3)", [("a ", R), ("b", 1.3 * R)]),
    # Escapes
    (r"\(a\)", [("(a)", 1.0)]),
    (r"\[a\]", [("[a]", 1.0)]),
    (r"(\(a\))", [("(a)", R)]),
    (r"(a\))", [("a)", R)]),
    (r"(a\:1.3)", [("a", 1.3)]),
    (r"(a\))(b)", [("a)b", R)]),
    (r"a\\b", [("a\\b", 1.0)]),
    (r"\\(a)", [("\\", 1.0), ("a", R)]),
    (r"a\b", [("ab", 1.0)]),
    ("a\\", [("a", 1.0)]),
    (r"miku \(vocaloid\), (hat:1.2)", [("miku (vocaloid), ", 1.0), ("hat", 1.2)]),
    # BREAK
    ("BREAK", [("", 1.0), B, ("", 1.0)]),
    ("a BREAK b", [("a", 1.0), B, ("b", 1.0)]),
    ("a\nBREAK\n\nb", [("a", 1.0), B, ("b", 1.0)]),
    ("a,BREAK,b", [("a,", 1.0), B, (",b", 1.0)]),
    ("a BREAK BREAK b", [("a", 1.0), B, ("", 1.0), B, ("b", 1.0)]),
    ("a BREAK", [("a", 1.0), B, ("", 1.0)]),
    ("BREAKS break abBREAK", [("BREAKS break abBREAK", 1.0)]),
    ("(a) BREAK (b:1.3)", [("a", R), ("", 1.0), B, ("", 1.0), ("b", 1.3)]),
    ("(a BREAK b:1.3)", [("a", 1.3), B, ("b", 1.3)]),
    # Left to other readers
    ("a AND b", [("a AND b", 1.0)]),
    ("<lora:x:0.8> a", [("<lora:x:0.8> a", 1.0)]),
    ("a # b", [("a # b", 1.0)]),
    ("(a|b)", [("a|b", R)]),
]


@pytest.mark.parametrize(("text", "expected"), TABLE, ids=[repr(row[0]) for row in TABLE])
def test_prompts_parse(text: str, expected: list[tuple[str, float] | Break]) -> None:
    pieces = parse_emphasis(text)
    assert [type(piece) for piece in pieces] == [
        Break if isinstance(row, Break) else Span for row in expected
    ]
    for piece, row in zip(pieces, expected, strict=True):
        if isinstance(piece, Span) and isinstance(row, tuple):
            assert piece.text == row[0]
            assert piece.weight == pytest.approx(row[1], rel=1e-12)


def test_a_number_too_large_to_be_one_is_text() -> None:
    digits = "9" * 400
    assert parse_emphasis(f"(a:{digits})") == [Span(f"a:{digits}", 1.1)]


grammar = st.text(alphabet=st.sampled_from(list("ab ,()[]\\:.15+-\nBREAK<>|#")), max_size=60)
anything = st.text(max_size=80)


def texts(pieces: list[Span | Break]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Span))


@given(st.one_of(grammar, anything))
def test_any_text_parses_into_merged_pieces_of_finite_weight(text: str) -> None:
    pieces = parse_emphasis(text)
    assert pieces
    spans = [piece for piece in pieces if isinstance(piece, Span)]
    assert all(math.isfinite(span.weight) for span in spans)
    for first, second in zip(pieces, pieces[1:], strict=False):
        if isinstance(first, Span) and isinstance(second, Span):
            assert first.weight != second.weight


@given(st.text(alphabet=st.characters(exclude_characters="()[]\\")))
def test_every_character_of_plain_text_survives(text: str) -> None:
    if "BREAK" not in text:
        assert parse_emphasis(text) == [Span(text, 1.0)]


@given(anything)
def test_escaped_text_comes_back_literally(text: str) -> None:
    escaped = "".join("\\" + letter if letter in "()[]\\" else letter for letter in text)
    if "BREAK" not in text:
        assert parse_emphasis(escaped) == [Span(text, 1.0)]


@given(
    st.lists(
        st.one_of(
            st.just("()"), st.just("[]"), st.floats(0.1, 3.0).map(lambda value: round(value, 3))
        ),
        max_size=8,
    )
)
def test_nested_weights_multiply(brackets: list[str | float]) -> None:
    text, expected = "word", 1.0
    for bracket in brackets:
        if isinstance(bracket, float):
            text, expected = f"({text}:{bracket})", expected * bracket
        else:
            text = bracket[0] + text + bracket[1]
            expected *= R if bracket == "()" else S
    (span,) = parse_emphasis(text)
    assert isinstance(span, Span)
    assert span.text == "word"
    assert span.weight == pytest.approx(expected, rel=1e-9)


def test_deep_nesting_takes_time_in_proportion() -> None:
    def seconds(count: int) -> float:
        text = "(a [b " * count
        started = time.perf_counter()
        parse_emphasis(text)
        return time.perf_counter() - started

    seconds(10)
    assert seconds(20_000) < 3.0
