"""Canny's edges, against the same rules written out place by place."""

from __future__ import annotations

import numpy as np
import pytest

from sdforge.postprocess import edges
from sdforge.postprocess.edges import canny

KERNEL = ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1))
Places = dict[tuple[int, int], tuple[int, int, int]]


def _slopes(picture: np.ndarray) -> Places:
    """Return (length, across, down) of each place's steepest channel."""
    height, width = picture.shape[:2]
    wide = np.pad(picture.astype(int), ((1, 1), (1, 1), (0, 0)), mode="edge")
    slopes = {}
    for y in range(height):
        for x in range(width):
            found = []
            for one in np.moveaxis(wide[y : y + 3, x : x + 3], 2, 0):
                across, down = int((one * KERNEL).sum()), int((one * np.transpose(KERNEL)).sum())
                found.append((abs(across) + abs(down), across, down))
            slopes[y, x] = max(found, key=lambda row: row[0])
    return slopes


def _is_ridge(slopes: Places, y: int, x: int) -> bool:
    length, across, down = slopes[y, x]

    def at(dy: int, dx: int) -> int:
        return slopes.get((y + dy, x + dx), (0, 0, 0))[0]

    flat, upright = abs(across) * 13573, abs(down) * 2**15
    if upright < flat:
        return length > at(0, -1) and length >= at(0, 1)
    if upright > flat + abs(across) * 2**16:
        return length > at(-1, 0) and length >= at(1, 0)
    side = -1 if (across < 0) != (down < 0) else 1
    return length > at(-1, -side) and length > at(1, side)


def _by_hand(picture: np.ndarray, low: int, high: int) -> np.ndarray:
    """OpenCV's rules, one place at a time."""
    slopes = _slopes(picture)
    edges = {
        place: row[0] > high
        for place, row in slopes.items()
        if row[0] > low and _is_ridge(slopes, *place)
    }
    front = [place for place, is_strong in edges.items() if is_strong]
    result = np.zeros(picture.shape[:2], np.uint8)
    while front:
        y, x = front.pop()
        if not result[y, x]:
            result[y, x] = 255
            around = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            front += [place for place in around if place in edges]
    return result


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["noise", "blocks", "ramp"])
def test_edges_are_those_of_the_rules_written_out(kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = random.integers(3, 22, 2)
    picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "blocks":
        picture = (picture[::5, ::5] // 128 * 90).repeat(5, 0).repeat(5, 1)[:height, :width]
    if kind == "ramp":
        picture = (picture // 4 + np.arange(width, dtype=np.uint8)[None, :, None] * 8).astype("u1")
    assert np.array_equal(canny(picture), _by_hand(picture, 100, 200))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_bands_of_rows_leave_no_seams(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(rows)
    picture = random.integers(0, 256, (17, 12, 3), dtype=np.uint8)
    monkeypatch.setattr(edges, "_BAND_PLACES", rows * 12)
    checks: list[None] = []
    assert np.array_equal(
        canny(picture, check=lambda: checks.append(None)), _by_hand(picture, 100, 200)
    )
    assert len(checks) >= 17 // rows


def test_an_edge_is_one_place_wide_and_thresholds_may_come_either_way_round() -> None:
    picture = np.zeros((20, 20), np.uint8)
    picture[:, 10:] = 255
    found = canny(picture)
    assert (found == 255).sum(axis=1).tolist() == [1] * 20
    assert np.array_equal(canny(picture, 200, 100), found)
    assert not canny(picture, 2000, 3000).any()
