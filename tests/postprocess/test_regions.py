"""From detections to masks: which stay, in which order, grown, moved and merged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdforge.core.detail import Detail, Detection
from sdforge.postprocess.regions import chosen, grown, masks_of, shown

SIZE = (100, 80)
SMALL, LARGE, MIDDLE = (
    Detection((70, 10, 80, 20), 0.9),
    Detection((0, 0, 40, 40), 0.5),
    Detection((40, 30, 60, 50), 0.7),
)
FOUND = [SMALL, MIDDLE, LARGE]


def detail(**values: object) -> Detail:
    return Detail(detector="x", **({"dilate": 0} | values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "order", "kept"),
    [
        ({}, "None", [SMALL, MIDDLE, LARGE]),
        ({"most": 2}, "None", [LARGE, MIDDLE]),
        ({"most": 1, "most_by": "Confidence"}, "None", [SMALL]),
        ({"least_share": 0.02}, "None", [MIDDLE, LARGE]),
        ({"most_share": 0.1}, "None", [SMALL, MIDDLE]),
        ({}, "Position (left to right)", [LARGE, MIDDLE, SMALL]),
        ({}, "Position (center to edge)", [MIDDLE, SMALL, LARGE]),
        ({}, "Area (large to small)", [LARGE, MIDDLE, SMALL]),
    ],
)
def test_which_stay_and_in_which_order(
    asked: dict[str, object], order: str, kept: list[Detection]
) -> None:
    assert chosen(FOUND, SIZE, detail(**asked), order) == kept


def test_masks_are_moved_merged_and_inverted() -> None:
    (plain,) = masks_of([SMALL], SIZE, detail())
    assert plain.getbbox() == (70, 10, 81, 21)
    (moved,) = masks_of([SMALL], SIZE, detail(right=5, up=3))
    assert moved.getbbox() == (75, 7, 86, 18)
    (merged,) = masks_of([SMALL, LARGE], SIZE, detail(merge="Merge"))
    (outside,) = masks_of([SMALL, LARGE], SIZE, detail(merge="Merge and Invert"))
    assert merged.getbbox() == (0, 0, 81, 41)
    assert (np.asarray(merged) + np.asarray(outside) == 255).all()
    assert masks_of([], SIZE, detail(merge="Merge and Invert")) == []


def test_what_shrinks_to_nothing_is_left_out() -> None:
    assert len(masks_of([SMALL, LARGE], SIZE, detail(dilate=-20))) == 1
    assert shown(Image.new("RGB", SIZE), FOUND).getbbox() is not None


@settings(deadline=None, max_examples=60)
@given(
    st.integers(-9, 9), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1)
)  # fmt: skip
def test_growing_is_the_most_of_a_square_and_shrinking_the_least(
    by: int, width: int, height: int, seed: int
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) > 0.6
    made = np.asarray(grown(Image.fromarray(mask.astype(np.uint8) * 255), by)) > 127
    side = abs(by)
    for y in range(height):
        for x in range(width):
            left, top = x - side // 2, y - side // 2
            square = mask[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
            wanted = mask[y, x] if not by else square.any() if by > 0 else square.all()
            assert made[y, x] == wanted
