"""Prompts with chances: `__animals__` takes a line of a file, `{red|green}` one of some texts.

The syntax is that of the Dynamic Prompts extension. Choices come from the picture's seed, so the
same seed and files give the same prompt. A1111 itself knows neither: what is no wildcard that
exists, and a brace without choices, stays as it is.
"""

from __future__ import annotations

import itertools
import logging
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

MODES: Final = ("Off", "Wildcards", "Wildcards and variants")
_DEEPEST = 20
# Files that name each other twice would double with every level.
_MOST_CHARACTERS = 100_000

_WILDCARD = re.compile(r"__([\w\-./*? ]+?)__")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_MARK = re.compile(r"\\.|[{}\[\]|]", re.DOTALL)
# "2$$", "1-3$$", "2$$ and $$": how many members, and what stands between them.
_COUNT = re.compile(r"\s*(?:(\d+)|(\d*)-(\d*))\s*\$\$(?:([^$]*)\$\$)?")
_WEIGHT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)::")
_SEPARATOR = ", "


@dataclass(frozen=True, slots=True)
class Option:
    """A text that may be chosen, `weight` times as likely as one of weight 1."""

    text: str
    weight: float = 1.0


class WildcardFolder:
    """Files of one text a line, found by their path without suffix; `*` and `?` match several."""

    def __init__(self, folder: Path) -> None:
        """Take the folder; it need not exist."""
        self._folder = folder

    def names(self) -> list[str]:
        """Return the names of all wildcards, such as `animals` or `nature/trees`."""
        return sorted(self._files())

    def options(self, name: str) -> list[Option]:
        """Return the lines of all files that a name means, none if there is no such file.

        Blank lines and those that begin with `#` are left out. A name never leaves the folder: it
        is compared with the files that lie there.
        """
        wanted = name.strip().strip("/").casefold()
        options: list[Option] = []
        for known, file in sorted(self._files().items()):
            if known == wanted or fnmatchcase(known, wanted):
                options += _lines(file)
        return options

    def _files(self) -> dict[str, Path]:
        paths = (path for path in self._folder.rglob("*.txt") if path.is_file())
        return {
            path.relative_to(self._folder).with_suffix("").as_posix().casefold(): path
            for path in paths
        }


def _lines(file: Path) -> list[Option]:
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        log.warning("wildcard file %s cannot be read: %s", file, error.strerror or error)
        return []
    texts = (line.strip() for line in lines)
    return [_option(text) for text in texts if text and not text.startswith("#")]


def expand(prompt: str, folder: WildcardFolder, *, seed: int, variants: bool) -> str:
    """Return the prompt with every choice made.

    Args:
        prompt: the text; without wildcards and choices it comes back unchanged.
        folder: where wildcards are.
        seed: decides the choices.
        variants: whether `{a|b}` is a choice too.
    """
    if "__" not in prompt and not (variants and "{" in prompt):
        return prompt
    return _Expansion(folder, random.Random(seed), variants).text(prompt, 0)  # noqa: S311


class _Expansion:
    """One prompt's choices. Only `random()` is drawn: Python keeps its numbers between versions."""

    def __init__(self, folder: WildcardFolder, rng: random.Random, variants: bool) -> None:
        self._folder = folder
        self._rng = rng
        self._variants = variants
        self._options: dict[str, list[Option]] = {}
        self._made = 0

    def text(self, text: str, depth: int) -> str:
        """Expand a text; beyond the deepest level or the most characters it stays as it is."""
        self._made += len(text)
        if depth > _DEEPEST or self._made > _MOST_CHARACTERS:
            return text
        parts: list[str] = []
        position = 0
        for start, end in _groups(text) if self._variants else ():
            parts.append(self._wildcards(text[position:start], depth))
            parts.append(self._variant(text[start + 1 : end - 1], depth))
            position = end
        parts.append(self._wildcards(text[position:], depth))
        return "".join(parts)

    def _wildcards(self, text: str, depth: int) -> str:
        def choose(match: re.Match[str]) -> str:
            options = self._lookup(match[1])
            return self.text(self._pick(options, 1)[0].text, depth + 1) if options else match[0]

        return _WILDCARD.sub(choose, text)

    def _lookup(self, name: str) -> list[Option]:
        if name not in self._options:
            self._options[name] = self._folder.options(name)
        return self._options[name]

    def _variant(self, inside: str, depth: int) -> str:
        counted = _COUNT.match(inside)
        members = _members(inside[counted.end() :] if counted else inside)
        if counted is None and len(members) < 2:
            return "{" + self.text(inside, depth + 1) + "}"
        options = [_option(member) for member in members]
        if len(options) == 1 and (named := _WILDCARD.fullmatch(options[0].text.strip())):
            options = self._lookup(named[1]) or options
        separator = _SEPARATOR if counted is None or counted[4] is None else counted[4]
        chosen = self._pick(options, self._count(counted, len(options)))
        return separator.join(self.text(option.text, depth + 1) for option in chosen)

    def _count(self, counted: re.Match[str] | None, most: int) -> int:
        if counted is None:
            return 1
        if counted[1] is not None:
            return min(int(counted[1]), most)
        low = min(int(counted[2] or 0), most)
        high = min(int(counted[3]) if counted[3] else most, most)
        low, high = sorted((low, high))
        return low + int(self._rng.random() * (high - low + 1))

    def _pick(self, options: Sequence[Option], count: int) -> list[Option]:
        """Return some options, none of them twice, in the order of the draw."""
        left = list(options)
        chosen = []
        for _ in range(min(count, len(left))):
            sums = list(itertools.accumulate(option.weight for option in left))
            point = self._rng.random() * sums[-1]
            index = next((n for n, total in enumerate(sums) if point < total), len(left) - 1)
            chosen.append(left.pop(index))
        return chosen


def _groups(text: str) -> list[tuple[int, int]]:
    """Return where the outermost braces that are closed begin and end."""
    opened: list[int] = []
    pairs: list[tuple[int, int]] = []
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            pair = (opened.pop(), match.end())
            while pairs and pairs[-1][0] > pair[0]:
                pairs.pop()
            pairs.append(pair)
    return pairs


def _members(inside: str) -> list[str]:
    """Split at bars that are in no brackets; brackets that don't match count as text."""
    depth = 0
    cuts: dict[bool, list[int]] = {True: [], False: []}
    braces = 0
    for match in _MARK.finditer(inside):
        mark = match[0]
        if mark in "{}":
            braces += 1 if mark == "{" else -1
        elif mark in "[]":
            depth += 1 if mark == "[" else -1
        elif mark == "|" and braces <= 0:
            cuts[False].append(match.start())
            if depth <= 0:
                cuts[True].append(match.start())
    places = [-1, *cuts[depth == 0], len(inside)]
    return [inside[start + 1 : end] for start, end in itertools.pairwise(places)]


def _option(text: str) -> Option:
    match = _WEIGHT.match(text)
    return Option(text[match.end() :], float(match[1])) if match else Option(text)
