"""Pictures cut into overlapping tiles of one size, and put together again without seams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TileGrid:
    """Where tiles lie: left edges of the columns, upper edges of the rows, all in pixels.

    `width` and `height` are the picture's; tiles of `tile_width` × `tile_height` lie within it.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    lefts: tuple[int, ...]
    tops: tuple[int, ...]

    def __len__(self) -> int:
        """How many tiles there are."""
        return len(self.lefts) * len(self.tops)

    def cut(self, pixels: Pixels) -> list[Pixels]:
        """Return the tiles of a picture, row by row."""
        return [
            pixels[top : top + self.tile_height, left : left + self.tile_width]
            for top in self.tops
            for left in self.lefts
        ]

    def joined(self, tiles: Sequence[Pixels]) -> Pixels:
        """Return the picture of its tiles, row by row; where they overlap one fades to the next."""
        columns = len(self.lefts)
        rows = [
            _joined_along(tiles[start : start + columns], self.lefts, self.width, axis=1)
            for start in range(0, len(self), columns)
        ]
        whole = _joined_along(rows, self.tops, self.height, axis=0)
        return np.asarray(np.rint(whole).clip(0, 255), np.uint8)


def tile_grid(width: int, height: int, tile_width: int, tile_height: int, overlap: int) -> TileGrid:
    """Return tiles that cover a picture evenly, overlapping at least so much (A1111's SD upscale).

    A tile is never larger than the picture.
    """
    tile_width, tile_height = min(tile_width, width), min(tile_height, height)
    return TileGrid(
        width, height, tile_width, tile_height,
        _starts(width, tile_width, overlap), _starts(height, tile_height, overlap),
    )  # fmt: skip


def _starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    if tile >= length:
        return (0,)
    # An overlap of a whole tile would get nowhere.
    overlap = min(overlap, tile - 1)
    forward = tile - overlap
    count = max(math.ceil((length - overlap) / forward), 2)
    return tuple(int(number * (length - tile) / (count - 1)) for number in range(count))


def _joined_along(
    parts: Sequence[npt.NDArray[np.generic]], starts: Sequence[int], length: int, *, axis: int
) -> npt.NDArray[np.float32]:
    """Join parts along an axis; each fades in over the stretch that it shares with the last."""
    first = np.moveaxis(parts[0], axis, 0)
    result = np.zeros((length, *first.shape[1:]), np.float32)
    end = 0
    for start, part in zip(starts, parts, strict=True):
        values = np.moveaxis(part, axis, 0).astype(np.float32)
        shared = max(end - start, 0)
        share = ((np.arange(shared, dtype=np.float32) + 0.5) / max(shared, 1)).reshape(
            -1, *[1] * (values.ndim - 1)
        )
        result[start:end] += (values[:shared] - result[start:end]) * share
        result[start + shared : start + len(values)] = values[shared:]
        end = start + len(values)
    return np.moveaxis(result, 0, axis)
