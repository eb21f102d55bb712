"""Which embeddings there are, which of them the loaded model can use, and where prompts name them.

An embedding's name is its file's. In a prompt it is found by its tokens, as A1111 does: without
regard to case, the longest first, never inside a longer word. Safe to use from several threads; no
torch here but what reading a file loads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from sdforge.core.errors import ModelError
from sdforge.core.paths import Paths
from sdforge.models.checkpoint import CheckpointHeader, read_header
from sdforge.models.files import model_files
from sdforge.models.hashes import HashCache, Stamp

SUFFIXES = (".safetensors", ".pt", ".bin")
# What one window of a text encoder holds beside its marks.
_MOST_VECTORS = 75
_HASH_DIGITS = 12
# By how many text encoders a model has: which part of a file goes to which of them.
PARTS: dict[int, tuple[tuple[str, ...], ...]] = {
    1: (("", "clip_l"),),
    2: (("clip_l",), ("clip_g",)),
}


@dataclass(frozen=True, kw_only=True)
class EmbeddingInfo:
    """One file; `widths` as in `Embedding.widths`, `error` says why it cannot be used."""

    path: Path
    name: str
    stamp: Stamp
    count: int = 0
    widths: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def width(self) -> int:
        """All widths together, which A1111 lists as `shape`."""
        return sum(self.widths.values())


def width_problem(found: Mapping[str, int], wanted: Sequence[int]) -> str | None:
    """Return why vectors are of no use to a model, None when they are.

    Args:
        found: widths by part of the file, as in `Embedding.widths`.
        wanted: widths of the model's text encoders.
    """
    parts = PARTS.get(len(wanted), ())
    chosen = [next((part for part in names if part in found), None) for names in parts]
    own = [found[part] for part in chosen if part is not None]
    if own == list(wanted) and len(own) == len(found):
        return None
    has = " and ".join(str(width) for width in found.values())
    takes = " and ".join(map(str, wanted))
    return f"its vectors have width {has}, the model's text encoder takes {takes}"


class EmbeddingLibrary:
    """The files below the embedding folders of `Paths`, scanned when first asked for."""

    def __init__(self, paths: Paths) -> None:
        """Look nowhere yet."""
        self._paths = paths
        self._lock = threading.RLock()
        self._infos: list[EmbeddingInfo] | None = None
        self._also: tuple[Path, ...] = ()
        self._widths: tuple[int, ...] = ()
        self._counter: tuple[TokenizerLike, list[EmbeddingInfo], EmbeddingTokenizer] | None = None
        self._hashes = HashCache(paths.cache / "embedding-hashes.json")

    def also(self, *folders: Path) -> None:
        """Search these folders as well from now on, in place of those named before."""
        with self._lock:
            if folders != self._also:
                self._also, self._infos = folders, None

    def refresh(self) -> None:
        """Scan the folders again; files that did not change are not opened."""
        with self._lock:
            known = {info.path: info for info in self._infos or ()}
            found: dict[str, EmbeddingInfo] = {}
            for root in (*self._paths.embeddings, *self._also):
                for path in model_files(root, SUFFIXES):
                    info = _inspect(path, known.get(path))
                    found.setdefault(info.name.casefold(), info)
            infos = sorted(found.values(), key=lambda info: info.name.casefold())
            if infos != self._infos:
                self._infos = infos

    def embeddings(self) -> list[EmbeddingInfo]:
        """Return all files in order of their names, broken ones too.

        The same list until something changes.
        """
        with self._lock:
            if self._infos is None:
                self.refresh()
            return self._infos or []

    def fit(self, widths: Sequence[int]) -> None:
        """Remember what the loaded model's text encoders take, for `usable` and `skipped`."""
        with self._lock:
            self._widths = tuple(widths)

    def usable(self) -> list[EmbeddingInfo]:
        """Return those that the loaded model can use; before any is loaded, all whole ones."""
        return [info for info in self.embeddings() if self._misfit(info) is None]

    def skipped(self) -> list[tuple[EmbeddingInfo, str]]:
        """Return the others, and why."""
        infos = self.embeddings()
        return [(info, reason) for info in infos if (reason := self._misfit(info)) is not None]

    def short_hash(self, info: EmbeddingInfo) -> str:
        """Return the first 12 digits of the file's SHA-256; raises `MissingModel`."""
        return self._hashes.compute(info.path)[:_HASH_DIGITS]

    def tokenizer(self, base: TokenizerLike) -> EmbeddingTokenizer:
        """Return a tokenizer that knows the usable embeddings' names, to count tokens with."""
        usable = self.usable()
        with self._lock:
            if self._counter is None or self._counter[:2] != (base, usable):
                names = ((info.name, info.count) for info in usable)
                made = EmbeddingTokenizer(base, names, first_id=base.vocabulary)
                self._counter = (base, usable, made)
            return self._counter[2]

    def _misfit(self, info: EmbeddingInfo) -> str | None:
        with self._lock:
            widths = self._widths
        if info.error is not None or not widths:
            return info.error
        return width_problem(info.widths, widths)


def _inspect(path: Path, known: EmbeddingInfo | None) -> EmbeddingInfo:
    try:
        stamp = Stamp.of(path)
    except OSError as error:
        reason = f"{path} cannot be read: {error.strerror or error}"
        return EmbeddingInfo(path=path, name=path.stem, stamp=Stamp(str(path), 0, 0), error=reason)
    if known is not None and known.stamp == stamp:
        return known
    plain = EmbeddingInfo(path=path, name=path.stem, stamp=stamp)
    try:
        found = _described(plain) or _read(plain)
    except ModelError as error:
        return replace(plain, error=error.message)
    if found.count > _MOST_VECTORS:
        reason = f"{path.name} holds {found.count} vectors, a prompt's chunk {_MOST_VECTORS} tokens"
        return replace(found, error=reason)
    return found


def _described(plain: EmbeddingInfo) -> EmbeddingInfo | None:
    """Return what a safetensors header says without reading the rest; None when it must be read."""
    if plain.path.suffix.lower() != ".safetensors":
        return None
    header: CheckpointHeader = read_header(plain.path)
    shapes = {key: info.shape for key, info in header.tensors.items()}
    parts = (
        {"emb_params": ""} if "emb_params" in shapes else {"clip_l": "clip_l", "clip_g": "clip_g"}
    )
    tables = [shapes[key] for key in parts if len(shapes.get(key, ())) == 2]
    if len(tables) != len(parts) or len({shape[0] for shape in tables}) != 1:
        return None
    widths = {part: shapes[key][1] for key, part in parts.items()}
    return replace(plain, count=tables[0][0], widths=widths)


def _read(plain: EmbeddingInfo) -> EmbeddingInfo:
    from sdforge.models.adapters.embedding import read_embedding

    found = read_embedding(plain.path)
    return replace(plain, count=found.count, widths=found.widths, facts=found.facts)


class TokenizerLike(Protocol):
    """What an `EmbeddingTokenizer` is made over."""

    @property
    def bos(self) -> int:
        """Id of the mark at the start."""

    @property
    def eos(self) -> int:
        """Id of the mark at the end."""

    @property
    def pad(self) -> int:
        """Id that fills up a chunk."""

    @property
    def comma(self) -> int:
        """Id of a comma."""

    @property
    def vocabulary(self) -> int:
        """How many ids there are."""

    def __call__(self, text: str) -> Sequence[int]:
        """Return the ids of a text."""


class EmbeddingTokenizer:
    """A tokenizer for which some words are groups of further ids, from `first_id` on.

    Two are equal only if they are one: chunks are remembered by prompt and tokenizer.
    """

    def __init__(
        self, base: TokenizerLike, names: Iterable[tuple[str, int]], *, first_id: int
    ) -> None:
        """Take names, each with how many ids it stands for."""
        self.bos, self.eos, self.pad, self.comma = base.bos, base.eos, base.pad, base.comma
        self.vocabulary = base.vocabulary
        self.places: dict[str, range] = {}
        self._base = base
        self._by_first: dict[int, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
        start = first_id
        for name, count in names:
            spelled = tuple(base(name))
            if not spelled:
                continue
            self.places[name] = range(start, start + count)
            group = tuple(self.places[name])
            self._by_first.setdefault(spelled[0], []).append((spelled, group))
            start += count
        for rows in self._by_first.values():
            rows.sort(key=lambda row: len(row[0]), reverse=True)

    def __call__(self, text: str) -> list[int | tuple[int, ...]]:
        """Return the ids of a text; an embedding is one tuple, which no chunk may tear."""
        ids = self._base(text)
        found: list[int | tuple[int, ...]] = []
        place = 0
        while place < len(ids):
            for spelled, group in self._by_first.get(ids[place], ()):
                if tuple(ids[place : place + len(spelled)]) == spelled:
                    found.append(group)
                    place += len(spelled)
                    break
            else:
                found.append(ids[place])
                place += 1
        return found
