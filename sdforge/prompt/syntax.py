r"""The attention grammar of prompts: text into spans with weights.

As in A1111: `(x)` is ×1.1, `[x]` ÷1.1, `(x:1.3)` ×1.3, nested ones multiply; `\(` and the like are
literal; a bracket that is never closed holds to the end, a stray one is literal; `BREAK` ends a
chunk. Everything else (`<name:…>`, `[a:b:0.5]`, `AND`) is text here: those are read, by files of
their own, before the text gets here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

# What a bracket multiplies the weight with when it names no number.
FACTORS: Final = {"(": 1.1, "[": 1 / 1.1}

# Alternatives in order: an escaped bracket or backslash, a stray backslash (dropped), the end of a
# weighted bracket, a bracket, text.
_TOKEN = re.compile(r"\\[()\[\]\\]|\\|:\s*([+-]?[.\d]+)\s*\)|[()\[\]]|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_OPENING_OF = {")": "(", "]": "["}


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text of one weight."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Break:
    """`BREAK`: what follows begins a new chunk."""


@dataclass(slots=True)
class _Opening:
    """An opening bracket; its factor is known for certain when it is closed."""

    kind: str
    factor: float


@dataclass(frozen=True, slots=True)
class _Closing:
    kind: str


_Mark: TypeAlias = str | Break | _Opening | _Closing


def parse_emphasis(text: str) -> list[Span | Break]:
    """Return the pieces of a prompt in order; neighbours of equal weight are one.

    Never fails: what is no valid emphasis is text. `BREAK` inside brackets works as outside
    (A1111 takes it for a word there). The result of an empty text is one empty span. Takes time
    proportional to the text, whatever its nesting.
    """
    return _weighted(_marks(text)) or [Span("")]


def _marks(text: str) -> list[_Mark]:
    """Return text, breaks and the brackets that act as such, in order."""
    marks: list[_Mark] = []
    unclosed: dict[str, list[_Opening]] = {"(": [], "[": []}
    for match in _TOKEN.finditer(text):
        token, number = match.group(), match.group(1)
        if token.startswith("\\"):
            marks.append(token[1:])
        elif token in FACTORS:
            opening = _Opening(token, FACTORS[token])
            unclosed[token].append(opening)
            marks.append(opening)
        elif number is not None and unclosed["("]:
            opening = unclosed["("].pop()
            factor = _finite(number)
            if factor is None:
                # "(x:1.2.3)": the colon is text, and the bracket one without a number.
                marks.append(token[:-1])
            else:
                opening.factor = factor
            marks.append(_Closing("("))
        elif unclosed.get(_OPENING_OF.get(token, "")):
            kind = _OPENING_OF[token]
            unclosed[kind].pop()
            marks.append(_Closing(kind))
        else:
            marks += _split_at_breaks(token)
    return marks


def _weighted(marks: Iterable[_Mark]) -> list[Span | Break]:
    """Give each text the product of the brackets around it, and join neighbours of equal weight."""
    pieces: list[Span | Break] = []
    # Round and square brackets may overlap, "(a [b) c]", but each kind nests by itself.
    weights = {"(": [1.0], "[": [1.0]}
    for mark in marks:
        if isinstance(mark, _Opening):
            weights[mark.kind].append(weights[mark.kind][-1] * mark.factor)
        elif isinstance(mark, _Closing):
            weights[mark.kind].pop()
        elif isinstance(mark, Break):
            pieces.append(mark)
        else:
            weight = weights["("][-1] * weights["["][-1]
            last = pieces[-1] if pieces else None
            if isinstance(last, Span) and last.weight == weight:
                pieces[-1] = Span(last.text + mark, weight)
            else:
                pieces.append(Span(mark, weight))
    return pieces


def _finite(number: str) -> float | None:
    try:
        value = float(number)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _split_at_breaks(text: str) -> list[_Mark]:
    """Return the text around each `BREAK`, which takes the white space beside it along."""
    first, *others = _BREAK.split(text)
    marks: list[_Mark] = [first]
    for part in others:
        marks += [Break(), part]
    return marks
