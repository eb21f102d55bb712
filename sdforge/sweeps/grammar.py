"""How the values of an axis are written: lists, ranges, counts, sizes. Text in, typed values out.

The notation is that of A1111's X/Y/Z plot. Two of its oddities are left out: ranges include their
end in both directions (there `10-5 (-1)` stops at 7) and never go beyond it (there `0-1 (+0.3)`
ends in 1.2). Pure; errors name the text that could not be read.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from io import StringIO
from itertools import islice, permutations
from math import factorial, isfinite
from typing import TypeVar

from sdforge.core.errors import InvalidRequest

T = TypeVar("T")

_WHOLE = r"[+-]?\s*\d+"
_DECIMAL = r"[+-]?\s*(?:\d+(?:\.\d*)?|\.\d+)"
# Rounding hides what binary fractions add, and is what legends show.
_DIGITS = 8


def _range(number: str) -> re.Pattern[str]:
    step = rf"\(\s*(?P<step>{number})\s*\)"
    count = r"\[\s*(?P<count>\d+)\s*\]"
    return re.compile(rf"\s*(?P<first>{number})\s*-\s*(?P<last>{number})\s*(?:{step}|{count})?\s*")


_WHOLE_RANGE, _DECIMAL_RANGE = _range(_WHOLE), _range(_DECIMAL)
_SIZE = re.compile(r"\s*(\d{1,6})\s*[xX×*]\s*(\d{1,6})\s*")
_TRUE = frozenset(("true", "yes", "y", "on", "1"))
_FALSE = frozenset(("false", "no", "n", "off", "0"))


def split_list(text: str, axis: str) -> list[str]:
    """Return the items of a comma-separated list; `"a, b"` in double quotes is one item.

    Lines are joined as with a comma, blanks around items and empty items are dropped.

    Raises:
        InvalidRequest: an item is longer than any value can be.
    """
    try:
        rows = list(csv.reader(StringIO(text), skipinitialspace=True))
    except csv.Error as error:
        raise InvalidRequest(axis, text, f"a comma-separated list ({error})") from error
    return [item.strip() for row in rows for item in row if item]


def whole_numbers(items: Sequence[str], axis: str, limit: int) -> list[int]:
    """Return the values of `3`, `1-5`, `1-10 (+3)` and `1-10 [5]`; counts truncate to integers.

    Raises:
        InvalidRequest: an item is none of these, or there are more than `limit` values.
    """
    allowed = "whole numbers such as 3, 1-5, 1-10 (+3) or 1-10 [5]"
    return _numbers(items, axis, limit, _WHOLE_RANGE, lambda value: int(value), allowed)


def decimal_numbers(items: Sequence[str], axis: str, limit: int) -> list[float]:
    """Return the values of `0.5`, `1-5`, `0-1 (+0.25)` and `0-1 [6]`, rounded to 8 digits.

    Raises:
        InvalidRequest: an item is none of these, or there are more than `limit` values.
    """

    def rounded(value: Fraction) -> float:
        return round(float(value), _DIGITS)

    allowed = "numbers such as 0.5, 1-5, 0-1 (+0.25) or 0-1 [6]"
    return _numbers(items, axis, limit, _DECIMAL_RANGE, rounded, allowed)


def _numbers(
    items: Sequence[str],
    axis: str,
    limit: int,
    pattern: re.Pattern[str],
    convert: Callable[[Fraction], T],
    allowed: str,
) -> list[T]:
    values: list[T] = []
    for item in items:
        if not item.strip():
            continue
        match = pattern.fullmatch(item)
        if match is None:
            values.append(convert(_single(item, axis, pattern, allowed)))
        else:
            # One more than may be, so that the check below sees it.
            found = islice(_range_values(match, axis, item, allowed), limit + 1 - len(values))
            values += [convert(value) for value in found]
        if len(values) > limit:
            raise InvalidRequest(axis, item, f"at most {limit} values")
    return values


def _single(item: str, axis: str, pattern: re.Pattern[str], allowed: str) -> Fraction:
    try:
        value = float(item)
    except ValueError:
        value = float("nan")
    is_whole = pattern is not _WHOLE_RANGE or value == int(value) if isfinite(value) else False
    if not is_whole:
        raise InvalidRequest(axis, item, allowed)
    # As it is written: seeds have more digits than some floats hold.
    return Fraction(Decimal(item.strip()))


def _range_values(match: re.Match[str], axis: str, item: str, allowed: str) -> Iterator[Fraction]:
    first, last = _fraction(match["first"]), _fraction(match["last"])
    if match["count"] is not None:
        return _spread(first, last, int(match["count"]))
    step = _fraction(match["step"]) if match["step"] else Fraction(1 if last >= first else -1)
    if step == 0 or (last - first) * step < 0:
        raise InvalidRequest(axis, item, f"{allowed}, with a step that leads from start to end")
    return _walk(first, last, step)


def _walk(first: Fraction, last: Fraction, step: Fraction) -> Iterator[Fraction]:
    return (first + index * step for index in range(int((last - first) / step) + 1))


def _spread(first: Fraction, last: Fraction, count: int) -> Iterator[Fraction]:
    gaps = max(count - 1, 1)
    return (first + (last - first) * index / gaps for index in range(count))


def _fraction(text: str) -> Fraction:
    return Fraction(Decimal(text.replace(" ", "")))


def orders(items: Sequence[str], axis: str, limit: int) -> list[tuple[str, ...]]:
    """Return all orders that the items can stand in.

    Raises:
        InvalidRequest: there are more than `limit`.
    """
    if factorial(len(items)) > limit:
        allowed = f"fewer words: {len(items)} have {factorial(len(items))} orders, {limit} may be"
        raise InvalidRequest(axis, ", ".join(items), allowed)
    return list(permutations(items)) if items else []


def size(item: str, axis: str) -> tuple[int, int]:
    """Return (width, height) of `512x768`.

    Raises:
        InvalidRequest: it is written otherwise.
    """
    match = _SIZE.fullmatch(item)
    if match is None:
        raise InvalidRequest(axis, item, "sizes such as 512x768")
    return int(match[1]), int(match[2])


def truth(item: str, axis: str) -> bool:
    """Return what "True", "no", "1"… mean.

    Raises:
        InvalidRequest: it is no such word.
    """
    folded = item.strip().casefold()
    if folded not in _TRUE | _FALSE:
        raise InvalidRequest(axis, item, "True or False")
    return folded in _TRUE


def quoted(items: Sequence[str]) -> str:
    """Return items as a list that `split_list` reads back."""
    return ", ".join(
        '"{}"'.format(item.replace('"', '""')) if re.search(r'[,"\s]', item) else item
        for item in items
    )
