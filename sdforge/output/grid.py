"""Contact sheets: the pictures of a job side by side, arranged as A1111 does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def grid_rows(count: int, n_rows: int = -1, batch_size: int = 1) -> int:
    """Return how many rows `count` pictures take.

    `n_rows` is A1111's setting: -1 for about a square, 0 for as many as the batch size.
    """
    if n_rows > 0:
        rows = n_rows
    elif n_rows == 0:
        rows = batch_size
    else:
        rows = round(math.sqrt(count))
    return max(1, min(rows, count))


def make_grid(pictures: Sequence[Pixels], rows: int = -1) -> Pixels:
    """Return the pictures in `rows` rows, line by line; -1 arranges them in about a square.

    Cells have the size of the largest picture, free space is black.
    """
    if not pictures:
        raise ValueError("a grid needs at least one picture")
    rows = grid_rows(len(pictures), rows)
    columns = math.ceil(len(pictures) / rows)
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * height, index % columns * width
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet
