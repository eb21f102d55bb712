"""At which size pictures are referred to."""

from __future__ import annotations

import pytest

from sdforge.pipeline.references import reference_size


@pytest.mark.parametrize(
    ("size", "side", "wanted"),
    [
        ((640, 480), 0, (640, 480)),
        ((645, 487), 0, (640, 480)),
        ((2048, 2048), 0, (1024, 1024)),
        ((4096, 1024), 0, (2048, 512)),
        ((2048, 1024), 512, (512, 256)),
        ((300, 200), 512, (288, 192)),
        ((20, 8), 0, (16, 16)),
    ],
)
def test_large_pictures_are_brought_down_to_a_megapixel(
    size: tuple[int, int], side: int, wanted: tuple[int, int]
) -> None:
    assert reference_size(*size, side, exact=False) == wanted


def test_models_that_read_about_pictures_get_a_megapixel_of_each() -> None:
    assert reference_size(300, 200, exact=True) == (1248, 832)
    assert reference_size(300, 200, 256, exact=True) == (256, 160)
