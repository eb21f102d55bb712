"""Prompts that change while a picture is drawn: `[from:to:when]` and `[a|b]` into texts over time.

As in A1111: `[to:when]` adds, `[from::when]` removes, `[a|b|c]` takes turns, all may be nested.
What is no such construct stays as it is, weights and escapes included: `syntax.py` reads the texts
that come out of here. Time is counted in calls of the denoiser, which a second-order sampler makes
twice a step.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

# An escaped letter, one of the marks, or text without either. A backslash at the end of a line
# matches nothing, and such a prompt has no constructs (A1111).
_TOKEN = re.compile(r"(?:[^\\\[\]():|]|\\.)+|[\[\]():|]")
_NUMBER = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")
_OPENING_OF: Final = {")": "(", "]": "["}


@dataclass(frozen=True, slots=True)
class TimedText:
    """A text that holds up to and with call number `end`; calls count from 0."""

    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """How numbers behind a colon become calls.

    Attributes:
        calls: of the denoiser in this pass.
        first_pass: None in the first pass (or the only one); in hires fix's second pass the calls
            of the first, since `1.0` to `2.0` and whole numbers beyond them mean the second.
        old: A1111's timeline before 1.6: numbers below 1 are shares, others calls, and the second
            pass follows the timeline of the first.
    """

    calls: int
    first_pass: int | None = None
    old: bool = False

    @property
    def length(self) -> int:
        """Calls that the schedule is made for."""
        if self.old and self.first_pass is not None:
            return self.first_pass
        return self.calls

    def call_of(self, when: str) -> int:
        """Return the last call of what stands first, below 1 if it never does."""
        value, length = float(when), self.length
        if self.old:
            value = value * length if value < 1 else value
        elif "." in when:
            value = (value - (0.0 if self.first_pass is None else 1.0)) * length
        else:
            value -= self.first_pass or 0
        return int(value) if math.isfinite(value) and value < length else length * (value > 0)


@dataclass(frozen=True, slots=True)
class _Edit:
    """`[before:after:when]`."""

    before: _Nodes
    after: _Nodes
    when: str


@dataclass(frozen=True, slots=True)
class _Turns:
    """`[a|b|c]`."""

    members: list[_Nodes]


_Nodes: TypeAlias = "list[str | _Edit | _Turns | _Nodes]"


def schedule(text: str, timeline: Timeline) -> tuple[TimedText, ...]:
    """Return the texts that a prompt stands for, in order of time; neighbours differ.

    Never fails: a prompt whose bars are outside of brackets is text as a whole, and brackets that
    don't match are text themselves (A1111).
    """
    tree = _parse(text)
    if tree is None or not tree.constructs:
        return (TimedText(timeline.length, text),)
    ends = {timeline.length}
    edits: dict[int, int] = {}
    for construct in tree.constructs:
        if isinstance(construct, _Turns):
            ends.update(range(1, timeline.length + 1))
        else:
            end = edits[id(construct)] = timeline.call_of(construct.when)
            if end >= 1:
                ends.add(end)
    texts: list[TimedText] = []
    for end in sorted(ends):
        now = "".join(_text_at(tree.nodes, end, edits))
        if texts and texts[-1].text == now:
            texts.pop()
        texts.append(TimedText(end, now))
    return tuple(texts)


def index_at(ends: Sequence[int], call: int) -> int:
    """Return which of the texts that end at `ends` holds in a call; after the last end, the last.

    The first one holds a call longer than the others, as in A1111: an `end` of 3 includes the calls
    0, 1, 2 and 3.
    """
    return min(bisect_left(ends, call), len(ends) - 1)


@dataclass(slots=True)
class _Tree:
    nodes: _Nodes = field(default_factory=list)
    constructs: list[_Edit | _Turns] = field(default_factory=list)


@dataclass(slots=True)
class _Open:
    """A bracket that is not closed yet, and what stands between its colons and bars."""

    bracket: str
    sections: list[_Nodes] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list)

    def literal(self) -> _Nodes | None:
        """Return it as text, None where a bar would be outside of an alternation."""
        if "|" in self.separators:
            return None
        nodes: _Nodes = [self.bracket, *self.sections[0]]
        for separator, section in zip(self.separators, self.sections[1:], strict=True):
            nodes += [separator, *section]
        return nodes

    def closed(self) -> _Edit | _Turns | _Nodes | None:
        """Return what it is now that its bracket is closed, None for nothing that is allowed."""
        if self.bracket == "(":
            return [*(self.literal() or []), ")"] if self.separators in ([], [":"]) else None
        if not self.separators:
            return ["[", self.sections[0], "]"]
        if set(self.separators) == {"|"}:
            return _Turns(self.sections)
        when = self._number()
        if when is None or self.separators not in ([":"], [":", ":"]):
            return None
        before: _Nodes = self.sections[0] if len(self.sections) == 3 else []
        return _Edit(before, self.sections[-2], when)

    def _number(self) -> str | None:
        last = self.sections[-1]
        if len(last) != 1 or not isinstance(last[0], str):
            return None
        match = _NUMBER.fullmatch(last[0])
        return match[1] if match else None


def _parse(text: str) -> _Tree | None:
    """Return the prompt's constructs, None when it is text as a whole. Takes linear time.

    Whatever may stand inside of brackets is complete, so one bracket that does not fit makes all
    brackets around it text.
    """
    tree = _Tree()
    stack: list[_Open] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        position = match.end()
        token = match[0]
        if token in "([":
            stack.append(_Open(token))
        elif token in ":|" and stack:
            stack[-1].separators.append(token)
            stack[-1].sections.append([])
        elif token == "|":
            return None
        elif token in ")]":
            if not _close(token, stack, tree):
                return None
        else:
            (stack[-1].sections[-1] if stack else tree.nodes).append(token)
    return tree if _give_up(stack, tree) else None


def _close(bracket: str, stack: list[_Open], tree: _Tree) -> bool:
    """Take a closing bracket in; False when the prompt can only be text."""
    fits = bool(stack) and stack[-1].bracket == _OPENING_OF[bracket]
    construct = stack[-1].closed() if fits else None
    if construct is None:
        if not _give_up(stack, tree):
            return False
        tree.nodes.append(bracket)
        return True
    stack.pop()
    if not isinstance(construct, list):
        tree.constructs.append(construct)
    (stack[-1].sections[-1] if stack else tree.nodes).append(construct)
    return True


def _give_up(stack: list[_Open], tree: _Tree) -> bool:
    """Turn all open brackets into text; False when that leaves a bar outside of brackets."""
    for frame in stack:
        nodes = frame.literal()
        if nodes is None:
            return False
        tree.nodes += nodes
    stack.clear()
    return True


def _text_at(nodes: _Nodes, call: int, edits: dict[int, int]) -> Iterator[str]:
    """Yield the pieces of text that hold at a call; without recursion, however deep the nesting."""
    stack = [iter(nodes)]
    while stack:
        node = next(stack[-1], None)
        if node is None:
            stack.pop()
        elif isinstance(node, str):
            yield node
        elif isinstance(node, _Edit):
            stack.append(iter(node.before if call <= edits[id(node)] else node.after))
        elif isinstance(node, _Turns):
            stack.append(iter(node.members[(call - 1) % len(node.members)]))
        else:
            stack.append(iter(node))
