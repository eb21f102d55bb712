"""Which parts of model files are the same, though the files are not.

Many checkpoints carry the same VAE or text encoder. A digest of names, shapes and sampled bytes
finds candidates without reading a file; before two are taken for one, all their bytes are compared.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import IO

from sdforge.models.checkpoint import CheckpointHeader, Piece
from sdforge.models.families.base import Recipe
from sdforge.models.hashes import Stamp
from sdforge.models.quant import Storage
from sdforge.models.scales import scales_of
from sdforge.models.skeleton import Skeleton

# Part of every digest: to be raised when the same file and recipe come to give other weights.
CONVERSION_VERSION = 1
_SAMPLES, _SAMPLE_BYTES = 16, 1024
_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Content:
    """The weights of one component; `places` are (start, end) in `pieces` laid end to end."""

    stamp: Stamp
    digest: str
    places: tuple[tuple[int, int], ...]
    pieces: tuple[Piece, ...]

    @classmethod
    def of(
        cls, recipe: Recipe, header: CheckpointHeader, storage: Storage, stamp: Stamp
    ) -> Content:
        """Return what a recipe will read of a file, with samples of it. Raises OSError."""
        outline = _outline(recipe, storage)
        places = outline.places(header.data_start)
        digest = outline.digest.copy()
        step = max(len(places) // _SAMPLES, 1)
        with _Reader(header.pieces) as files:
            for start, end in places[::step]:
                # From the middle: tensors often begin alike, with a row of padding.
                middle = (start + end) // 2
                digest.update(files.read(middle, min(_SAMPLE_BYTES, end - middle)))
        return cls(stamp, digest.hexdigest(), places, header.pieces)

    @property
    def key(self) -> str:
        """A name for the component that is read from here; equal for equal files only."""
        return hashlib.sha256(f"{self.digest}|{self.stamp}".encode()).hexdigest()

    def is_same(self, other: Content) -> bool:
        """Compare all bytes with those of another file; False when either changed or is gone."""
        if self.digest != other.digest or len(self.places) != len(other.places):
            return False
        try:
            with _Reader(self.pieces) as mine, _Reader(other.pieces) as theirs:
                pairs = sorted(zip(self.places, other.places, strict=True))
                return (
                    all(_equal(mine, one, theirs, two) for one, two in pairs)
                    and _is_current(self.stamp)
                    and _is_current(other.stamp)
                )
        except OSError:
            return False


@dataclass(frozen=True)
class _Outline:
    """What is the same for all files of a layout: a digest of names and shapes, and the places."""

    digest: hashlib._Hash
    offsets: tuple[tuple[int, int], ...]

    def places(self, data_start: int) -> tuple[tuple[int, int], ...]:
        return tuple([(data_start + start, data_start + end) for start, end in self.offsets])


@lru_cache(maxsize=8)
def _outline(recipe: Recipe, storage: Storage) -> _Outline:
    names = sorted(recipe.skeleton.shapes)
    infos = [recipe.info(name) for name in names]
    digest = hashlib.sha256()
    for part in (CONVERSION_VERSION, recipe.role, storage, _architecture(recipe.skeleton)):
        digest.update(f"{part}|".encode())
    for name, info in zip(names, infos, strict=True):
        digest.update(f"{name}|{info.dtype}|{recipe.sources[name].shape}\n".encode())
    infos += [recipe.layout.tensors[source.key] for source in scales_of(recipe).values()]
    infos += [beside for info in infos if info.four_bit for beside in info.four_bit.tensors]
    return _Outline(digest, tuple((info.start, info.end) for info in infos))


def _architecture(skeleton: Skeleton) -> str:
    """Return what shapes of weights do not tell, such as the number of attention heads."""
    config = getattr(skeleton.example, "config", None)
    return f"{type(skeleton.example).__qualname__}|{dict(config) if config else ''}"


def _is_current(stamp: Stamp) -> bool:
    return Stamp.of(Path(stamp.path)) == stamp


class _Reader:
    """Reads from files that are laid end to end."""

    def __init__(self, pieces: tuple[Piece, ...]) -> None:
        self._pieces = pieces
        self._starts = [piece.start for piece in pieces]
        self._stack = ExitStack()
        self._files: dict[int, IO[bytes]] = {}

    def __enter__(self) -> _Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def read(self, place: int, size: int) -> bytes:
        """Return bytes, which lie in one file; fewer where it ends. Raises OSError."""
        number = bisect_right(self._starts, place) - 1
        file = self._files.get(number)
        if file is None:
            opened = self._pieces[number].path.open("rb", buffering=0)
            file = self._files[number] = self._stack.enter_context(opened)
        file.seek(place - self._starts[number])
        return file.read(size)


def _equal(mine: _Reader, one: tuple[int, int], theirs: _Reader, two: tuple[int, int]) -> bool:
    (place, end), (other, other_end) = one, two
    if other_end - other != end - place:
        return False
    while place < end:
        size = min(end - place, _PIECE_BYTES)
        piece = mine.read(place, size)
        # A short read ends the comparison: the file was cut meanwhile.
        if len(piece) != size or piece != theirs.read(other, size):
            return False
        place, other = place + size, other + size
    return True
