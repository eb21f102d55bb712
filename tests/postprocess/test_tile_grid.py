"""Tiles cover a picture, and joined again they are the picture."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sdforge.postprocess.tile_grid import tile_grid

SIDES = st.integers(1, 90)


@settings(deadline=None)
@given(SIDES, SIDES, st.integers(1, 64), st.integers(1, 64), st.integers(0, 80))
def test_what_is_cut_and_joined_is_the_same(
    width: int, height: int, tile_width: int, tile_height: int, overlap: int
) -> None:
    grid = tile_grid(width, height, tile_width, tile_height, overlap)
    pixels = np.random.default_rng(width * height).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
    tiles = grid.cut(pixels)
    assert {tile.shape for tile in tiles} == {(min(tile_height, height), min(tile_width, width), 3)}
    assert len(tiles) == len(grid)
    assert np.array_equal(grid.joined(tiles), pixels)


@settings(deadline=None)
@given(st.integers(2, 300), st.integers(2, 64), st.integers(0, 63))
def test_neighbours_overlap_as_much_as_asked(length: int, tile: int, overlap: int) -> None:
    grid = tile_grid(length, 1, tile, 1, overlap)
    for left, right in zip(grid.lefts, grid.lefts[1:], strict=False):
        assert left + tile - right >= min(overlap, tile - 1)
    assert grid.lefts[-1] + grid.tile_width == length


def test_tiles_of_different_brightness_fade_into_each_other() -> None:
    grid = tile_grid(56, 8, 32, 8, 8)
    tiles = [np.full((8, 32, 3), level, np.uint8) for level in (40, 120)]
    row = grid.joined(tiles)[0, :, 0].astype(int)
    assert row[0] == 40
    assert row[-1] == 120
    assert 0 < np.diff(row).max() <= 80 / 8 + 1
    assert np.diff(row).min() >= 0


def test_tiles_are_laid_evenly() -> None:
    assert tile_grid(1024, 512, 512, 512, 64).lefts == (0, 256, 512)
    assert tile_grid(960, 512, 512, 512, 64).lefts == (0, 448)
    assert tile_grid(100, 512, 512, 512, 64).lefts == (0,)
