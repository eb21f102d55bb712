import numpy as np
import pytest

from sdforge.output.grid import grid_rows, make_grid


def flat(value: int, height: int = 2, width: int = 3) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize(
    ("count", "n_rows", "batch_size", "rows"),
    [(1, -1, 1, 1), (2, -1, 1, 1), (3, -1, 1, 2), (4, -1, 1, 2), (6, -1, 1, 2), (7, -1, 1, 3),
     (6, 3, 1, 3), (2, 5, 1, 2), (6, 0, 2, 2), (3, 0, 8, 3)],
)  # fmt: skip
def test_rows_follow_the_setting(count: int, n_rows: int, batch_size: int, rows: int) -> None:
    assert grid_rows(count, n_rows, batch_size) == rows


def test_pictures_lie_line_by_line_and_the_rest_is_black() -> None:
    sheet = make_grid([flat(10), flat(20), flat(30)], 2)
    assert sheet.shape == (4, 6, 3)
    assert sheet[0, 0, 0] == 10 and sheet[0, 3, 0] == 20 and sheet[2, 0, 0] == 30
    assert not sheet[2:, 3:].any()


def test_cells_have_the_size_of_the_largest_picture() -> None:
    assert make_grid([flat(1, 2, 8), flat(2, 6, 3)], 1).shape == (6, 16, 3)


def test_no_pictures_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least one"):
        make_grid([])
