"""Canny's edges in numpy, to the pixel those of `cv2.Canny` with its defaults.

Canny 1986, as OpenCV computes it: no blur, Sobel slopes of the steepest colour channel, lengths as
|x| + |y|, ridges by a fixed-point tangent, weak edges only where they touch strong ones. Slopes are
computed band by band, so that what is worked on stays near the processor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Slopes = npt.NDArray[np.int16]
Mask = npt.NDArray[np.bool_]
Check = Callable[[], None]

# tan 22.5° in OpenCV's fixed point of 15 bits; tan 67.5° is that plus 2.
_TAN_22 = 13573
_SHIFT = 15
_BAND_PLACES = 2**18


def unchecked() -> None:
    """Go on: nobody can stop what runs."""


def canny(picture: Pixels, low: float = 100, high: float = 200, check: Check = unchecked) -> Pixels:
    """Return the edges of a picture (height, width[, channels]) as 0 or 255 (height, width).

    Args:
        picture: uint8.
        low: slopes above it count where they touch an edge.
        high: slopes above it are edges.
        check: called every few milliseconds; it may raise to stop.
    """
    low, high = np.floor(min(low, high)), np.floor(max(low, high))
    height, width = picture.shape[:2]
    values = picture[:, :, None] if picture.ndim == 2 else picture
    framed = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
    # With a frame of places that are none, so that all have eight neighbours.
    weak, strong = (np.zeros((height + 2, width + 2), np.bool_) for _ in range(2))
    rows = max(_BAND_PLACES // width, 1)
    for first in range(0, height, rows):
        check()
        last = min(first + rows, height)
        ridge, length = _ridges(framed, first, last, low)
        weak[first + 1 : last + 1, 1:-1] = ridge
        strong[first + 1 : last + 1, 1:-1] = ridge & (length > high)
    return _touching(weak, strong, check)[1:-1, 1:-1] * np.uint8(255)


def _ridges(framed: Pixels, first: int, last: int, low: float) -> tuple[Mask, Slopes]:
    """Return where slopes of some rows are steeper than `low` and their neighbours, and lengths."""
    height = framed.shape[0] - 2
    # Neighbours above and below count too; outside of the picture there is none.
    above, below = int(first > 0), int(last < height)
    across, down, inner = _slopes(framed[first - above : last + below + 2])
    length = np.pad(inner, ((1 - above, 1 - below), (1, 1)))
    stride = length.shape[1]
    flat_length = length.reshape(-1)
    own = slice(above, above + last - first)
    places = np.flatnonzero(inner[own] > low)
    x = across[own].reshape(-1)[places].astype(np.int32)
    y = down[own].reshape(-1)[places].astype(np.int32)
    step = _steps(x, y, stride)
    rows, columns = np.divmod(places, stride - 2)
    at = (rows + 1) * stride + columns + 1
    own_length, after = flat_length[at], flat_length[at + step]
    # Of equal neighbours the one before loses, but along diagonals both do.
    is_diagonal = (step != 1) & (step != stride)
    is_ridge = (own_length > flat_length[at - step]) & (own_length >= after + is_diagonal)
    found = np.zeros(inner[own].size, np.bool_)
    found[places[is_ridge]] = True
    return found.reshape(inner[own].shape), inner[own]


def _slopes(framed: Pixels) -> tuple[Slopes, Slopes, Slopes]:
    """Return Sobel's slopes across and down, and their length, of each place's steepest channel."""
    found: tuple[Slopes, Slopes, Slopes] | None = None
    for channel in range(framed.shape[2]):
        values = framed[:, :, channel].astype(np.int16)
        rows = values[:-2] + 2 * values[1:-1] + values[2:]
        columns = values[:, :-2] + 2 * values[:, 1:-1] + values[:, 2:]
        across, down = rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]
        length = np.abs(across) + np.abs(down)
        if found is None:
            found = across, down, length
            continue
        is_steeper = length > found[2]
        for kept, new in zip(found, (across, down, length), strict=True):
            np.copyto(kept, new, where=is_steeper)
    if found is None:
        raise ValueError("a picture without channels has no edges")
    return found


def _steps(x: npt.NDArray[np.int32], y: npt.NDArray[np.int32], stride: int) -> npt.NDArray[np.intp]:
    """Return the way from each place to its neighbour in the direction of its slope."""
    falls = (x ^ y) < 0
    x, y = np.abs(x), np.abs(y) << _SHIFT
    flat = x * _TAN_22
    diagonal = np.where(falls, stride - 1, stride + 1)
    steep = np.where(y > flat + (x << (_SHIFT + 1)), stride, diagonal)
    return np.where(y < flat, 1, steep)


def _touching(weak: Mask, strong: Mask, check: Check) -> Mask:
    """Return the weak places that hang together with a strong one, over corners too.

    Both have a frame of one place that is never set.
    """
    stride = weak.shape[1]
    near = np.array([-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1])
    waiting = weak & ~strong
    # The first step is one of all strong places, which is quicker with whole rows.
    beside = np.zeros_like(strong)
    beside[:, 1:-1] = strong[:, :-2] | strong[:, 1:-1] | strong[:, 2:]
    around = np.zeros_like(strong)
    around[1:-1] = beside[:-2] | beside[1:-1] | beside[2:]
    first = waiting & around
    found = strong | first
    waiting &= ~first
    front, open_places, reached = np.flatnonzero(first), waiting.reshape(-1), found.reshape(-1)
    while front.size:
        check()
        touched = (front[:, None] + near).reshape(-1)
        front = np.unique(touched[open_places[touched]])
        open_places[front] = False
        reached[front] = True
    return found
