"""Canny's edges in numpy, to the pixel those of `cv2.Canny` with its defaults.

Canny 1986, as OpenCV computes it: no blur, Sobel slopes of the steepest colour channel, lengths as
|x| + |y|, ridges by a fixed-point tangent, weak edges only where they touch strong ones.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

# tan 22.5° in OpenCV's fixed point of 15 bits; tan 67.5° is that plus 2.
_TAN_22 = 13573
_SHIFT = 15


def canny(picture: Pixels, low: float = 100, high: float = 200) -> Pixels:
    """Return the edges of a picture (height, width[, channels]) as 0 or 255 (height, width).

    Args:
        picture: uint8.
        low: slopes above it count where they touch an edge.
        high: slopes above it are edges.
    """
    low, high = min(low, high), max(low, high)
    across, down, length = _slopes(picture)
    ridge = _ridges(across, down, length) & (length > np.floor(low))
    return np.where(_touching(ridge, ridge & (length > np.floor(high))), 255, 0).astype(np.uint8)


def _slopes(picture: Pixels) -> tuple[Ints, Ints, Ints]:
    """Return Sobel's slopes across and down, and their length, of each place's steepest channel."""
    values = picture.astype(np.int32)
    values = values[:, :, None] if values.ndim == 2 else values
    framed = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = framed[:-2] + 2 * framed[1:-1] + framed[2:]
    columns = framed[:, :-2] + 2 * framed[:, 1:-1] + framed[:, 2:]
    across, down = rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]
    length = np.abs(across) + np.abs(down)
    steepest = length.argmax(axis=2)[:, :, None]
    found = [np.take_along_axis(one, steepest, axis=2)[:, :, 0] for one in (across, down, length)]
    return found[0], found[1], found[2]


def _ridges(across: Ints, down: Ints, length: Ints) -> Mask:
    """Return where a slope is steeper than both neighbours in its own direction."""
    framed = np.pad(length, 1)
    height, width = length.shape

    def beside(y: int, x: int) -> Ints:
        return framed[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    x, y = np.abs(across).astype(np.int64), np.abs(down).astype(np.int64) << _SHIFT
    flat = x * _TAN_22
    is_flat = y < flat
    is_steep = y > flat + (x << (_SHIFT + 1))
    falls = (across ^ down) < 0
    # Of equal neighbours the one before loses, but along diagonals both do.
    flat_ridge = (length > beside(0, -1)) & (length >= beside(0, 1))
    steep_ridge = (length > beside(-1, 0)) & (length >= beside(1, 0))
    one = (length > beside(-1, -1)) & (length > beside(1, 1))
    other = (length > beside(-1, 1)) & (length > beside(1, -1))
    diagonal = np.where(falls, other, one)
    return np.where(is_flat, flat_ridge, np.where(is_steep, steep_ridge, diagonal))


def _touching(weak: Mask, strong: Mask) -> Mask:
    """Return the weak places that hang together with a strong one, over corners too."""
    height, width = weak.shape
    waiting = np.pad(weak & ~strong, 1)
    found = np.pad(strong, 1)
    stride = width + 2
    near = np.array([-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1])
    open_places, reached = waiting.reshape(-1), found.reshape(-1)
    front = np.flatnonzero(reached)
    while front.size:
        around = np.unique((front[:, None] + near).reshape(-1))
        front = around[open_places[around]]
        open_places[front] = False
        reached[front] = True
    return found[1 : height + 1, 1 : width + 1]
