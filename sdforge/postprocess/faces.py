"""Where a face lies in a picture: turned upright and cut out, and put back with soft edges.

Arithmetic of pictures alone; the networks are in `models/faces/`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

Points = npt.NDArray[np.float64]

# Where eyes, nose and corners of the mouth are in the 512 pixels of faces that the networks learnt
# from: the alignment of FFHQ, as facexlib measured it.
_PLACES: Points = np.array(
    [[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935],
     [201.26117, 371.41043], [313.08905, 371.15118]]
)  # fmt: skip
_PLACES_SIDE = 512
# What lies beyond the picture's edge: facexlib's grey, which the networks were used with.
_BEYOND = (132, 133, 135)
# Shares of a face's side: what is left out at its edge, and over which it fades in.
_LEFT_OUT, _FADE = 0.02, 0.12
# Eyes closer than so many pixels are too few of them to draw a face from (A1111).
_LEAST_EYE_DISTANCE = 5


@dataclass(frozen=True, eq=False)
class Place:
    """A face's place: what turns points of the upright face into points of the picture.

    Attributes:
        matrix: (2, 3), of (x, y, 1).
        side: of the upright face, in pixels.
    """

    matrix: Points
    side: int

    @classmethod
    def of(cls, points: Points, side: int) -> Place:
        """Return the place of a face whose five points (5, 2) are given in the picture's pixels.

        The turn, stretch and shift that bring the points closest to where they belong, by least
        squares (Umeyama 1991), with no mirroring.
        """
        wanted = _PLACES * (side / _PLACES_SIDE)
        from_middle, to_middle = wanted.mean(0), points.mean(0)
        wanted, found = wanted - from_middle, points - to_middle
        # As complex numbers a turn with a stretch is one factor.
        factor = np.vdot(_complex(wanted), _complex(found)) / np.square(wanted).sum()
        turn = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
        shift = to_middle - turn @ from_middle
        return cls(np.column_stack([turn, shift]), side)

    @property
    def is_usable(self) -> bool:
        """Whether there are enough pixels of it."""
        eyes = (_PLACES[1] - _PLACES[0]) * (self.side / _PLACES_SIDE)
        return math.hypot(*(self.matrix[:, :2] @ eyes)) >= _LEAST_EYE_DISTANCE

    @property
    def scale(self) -> float:
        """Pixels of the picture for each pixel of the upright face."""
        return math.hypot(*self.matrix[:, 0])

    def cut_out(self, picture: Image.Image) -> Image.Image:
        """Return the upright face."""
        from PIL import Image

        times = _power_of_two(self.scale)
        return picture.reduce(times).transform(
            (self.side, self.side),
            Image.Transform.AFFINE,
            _six(self.matrix / times),
            Image.Resampling.BILINEAR,
            fillcolor=_BEYOND,
        )

    def put_back(self, picture: Image.Image, face: Image.Image) -> Image.Image:
        """Return a picture with an upright face laid in its place, fading in from its edges."""
        from PIL import Image

        left, top, right, bottom = self._bounds(picture.size)
        if right <= left or bottom <= top:
            return picture
        inverse = np.linalg.inv(np.vstack([self.matrix, [0, 0, 1]]))[:2]
        # Only the part of the picture that the face covers is computed.
        inverse[:, 2] += inverse[:, :2] @ (left, top)
        times = min(_power_of_two(1 / self.scale), self.side)
        six, size = _six(inverse / times), (right - left, bottom - top)
        kind, how = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        laid = face.reduce(times).transform(size, kind, six, how)
        square = Image.fromarray(_soft_square(self.side)).reduce(times)
        result = picture.copy()
        result.paste(laid, (left, top), square.transform(size, kind, six, how))
        return result

    def _bounds(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        side = float(self.side)
        corners = np.array([[0, 0, 1], [side, 0, 1], [0, side, 1], [side, side, 1]])
        places = corners @ self.matrix.T
        left, top = np.floor(places.min(0)).astype(int)
        right, bottom = np.ceil(places.max(0)).astype(int)
        return (
            max(int(left), 0),
            max(int(top), 0),
            min(int(right), size[0]),
            min(int(bottom), size[1]),
        )


def _complex(points: Points) -> npt.NDArray[np.complex128]:
    return np.asarray(points[:, 0] + 1j * points[:, 1])


def _six(matrix: Points) -> tuple[float, ...]:
    """Return the numbers as Pillow takes them; it counts from corners of pixels as we do."""
    return tuple(float(value) for value in matrix.ravel())


def _power_of_two(scale: float) -> int:
    """Return by how much to shrink first what will be shrunk by `scale`: plain sampling skips."""
    return int(2 ** max(math.floor(math.log2(scale)), 0))


def _soft_square(side: int) -> npt.NDArray[np.uint8]:
    """Return how much of a face counts: nothing at its very edge, all of it inside."""
    from_edge = np.minimum(np.arange(side) + 0.5, side - np.arange(side) - 0.5) / side
    rise = ((from_edge - _LEFT_OUT) / _FADE).clip(0, 1)
    # Smooth at both ends, so that no line is seen where the fading begins.
    rise = rise * rise * (3 - 2 * rise)
    return np.asarray((np.minimum.outer(rise, rise) * 255).round(), np.uint8)
