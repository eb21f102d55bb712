from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdforge.core.errors import InvalidRequest
from sdforge.sweeps import grammar

LIMIT = 1000


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a,b", ["a", "b"]),
        ("a, b ,c ", ["a", "b", "c"]),
        ('"a, b",c', ["a, b", "c"]),
        ('a, "b, c", d', ["a", "b, c", "d"]),
        ('say ""hi"", x', ['say ""hi""', "x"]),
        ('"say ""hi""", x', ['say "hi"', "x"]),
        ("a,,b,", ["a", "b"]),
        ("a\nb, c\n\nd", ["a", "b", "c", "d"]),
        ('cat," "', ["cat", ""]),
        ("", []),
        ("  ", []),
        ("(red:1.2), [a|b]", ["(red:1.2)", "[a|b]"]),
    ],
)
def test_lists_are_split_at_commas_outside_of_quotes(text: str, items: list[str]) -> None:
    # Blank lines of nothing but spaces hold one item that is nothing.
    assert [item for item in grammar.split_list(text, "X") if item or '"' in text] == items


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1", [1]),
        ("-1", [-1]),
        ("4294967295", [4294967295]),
        ("3.0", [3]),
        ("1, 5 ,9", [1, 5, 9]),
        ("1-5", [1, 2, 3, 4, 5]),
        (" 1 - 3 ", [1, 2, 3]),
        ("1-10 (+2)", [1, 3, 5, 7, 9]),
        ("1-10(+3)", [1, 4, 7, 10]),
        ("1-10 (3)", [1, 4, 7, 10]),
        ("10-5 (-3)", [10, 7]),
        ("10-5 (-1)", [10, 9, 8, 7, 6, 5]),
        ("3-1", [3, 2, 1]),
        ("1-10 [5]", [1, 3, 5, 7, 10]),
        ("1-10 [4]", [1, 4, 7, 10]),
        ("5-5", [5]),
        ("1-9 [1]", [1]),
        ("1-9 [0]", []),
        ("-3-3", [-3, -2, -1, 0, 1, 2, 3]),
        ("-5--3", [-5, -4, -3]),
        ("-2-2 [3]", [-2, 0, 2]),
        ("1-3, 10, 20-22", [1, 2, 3, 10, 20, 21, 22]),
    ],
)
def test_whole_numbers_as_a1111_writes_them(text: str, values: list[int]) -> None:
    assert grammar.whole_numbers(grammar.split_list(text, "X"), "X", LIMIT) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.5", [0.5]),
        (".5, 1e-3", [0.5, 0.001]),
        ("-0.25", [-0.25]),
        ("1-3", [1.0, 2.0, 3.0]),
        ("0-1 (+0.25)", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("0-1 (+0.1)", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ("0-1 (+0.3)", [0.0, 0.3, 0.6, 0.9]),
        ("1-0 (-0.5)", [1.0, 0.5, 0.0]),
        ("0-1 [6]", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ("0.5-1.5 [3]", [0.5, 1.0, 1.5]),
        ("-1.5--0.5 (+0.5)", [-1.5, -1.0, -0.5]),
        ("7, 0-1 [3]", [7.0, 0.0, 0.5, 1.0]),
        ("0.1-0.35", [0.1]),
    ],
)
def test_decimal_numbers_as_a1111_writes_them(text: str, values: list[float]) -> None:
    assert grammar.decimal_numbers(grammar.split_list(text, "X"), "X", LIMIT) == values


@pytest.mark.parametrize("text", ["x", "1-", "1-5 (0)", "1-5 (-1)", "5-1 (+1)", "1.5", "nan",
                                  "inf", "1-5 +2", "1..5", "1-5 [-2]", "1 2"])  # fmt: skip
def test_what_is_no_whole_number_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        grammar.whole_numbers([text], "Steps", LIMIT)
    assert caught.value.field == "Steps"
    assert caught.value.value == text


@pytest.mark.parametrize("text", ["x", "1-", "0-1 (0)", "1-0 (+0.5)", "inf", "nan", "0,5-"])
def test_what_is_no_decimal_number_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match="CFG Scale"):
        grammar.decimal_numbers([text], "CFG Scale", LIMIT)


@pytest.mark.parametrize("text", ["1-1000000000000", "0-1 (+0.0000000001)", "0-1 [999999999999]"])
def test_a_range_that_never_ends_is_refused_and_not_listed(text: str) -> None:
    with pytest.raises(InvalidRequest, match="at most 1000 values"):
        grammar.decimal_numbers([text], "X", LIMIT)


def test_orders_are_all_permutations_within_a_limit() -> None:
    found = grammar.orders(["a", "b", "c"], "X", LIMIT)
    assert found[0] == ("a", "b", "c")
    assert len(set(found)) == 6
    assert grammar.orders([], "X", LIMIT) == []
    with pytest.raises(InvalidRequest, match="40320 orders"):
        grammar.orders(list("abcdefgh"), "X", LIMIT)


@pytest.mark.parametrize("text", ["512x768", " 512 X 768 ", "512×768"])
def test_sizes(text: str) -> None:
    assert grammar.size(text, "Size") == (512, 768)


@pytest.mark.parametrize("text", ["512", "x", "512x", "512x-4", "a x b", "9999999x1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="512x768"):
        grammar.size(text, "Size")


@pytest.mark.parametrize(
    ("text", "value"),
    [("True", True), ("yes", True), ("1", True), ("False", False), ("no", False), ("0", False)],
)
def test_truth(text: str, value: bool) -> None:
    assert grammar.truth(text, "X") is value


def test_truth_of_something_else_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="True or False"):
        grammar.truth("maybe", "X")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1)))
@settings(deadline=None)
def test_a_quoted_list_is_read_back(items: list[str]) -> None:
    assert grammar.split_list(grammar.quoted(items), "X") == items


@given(st.integers(-10_000, 10_000), st.integers(-10_000, 10_000), st.integers(1, 500))
@settings(deadline=None)
def test_every_range_begins_at_its_start_and_stays_within(first: int, last: int, step: int) -> None:
    signed: Any = step if last >= first else -step
    values = grammar.whole_numbers([f"{first}-{last} ({signed:+d})"], "X", 100_000)
    assert values[0] == first
    assert all(min(first, last) <= value <= max(first, last) for value in values)
    assert abs(last - values[-1]) < step
