"""Pictures made larger than they are: room on some sides, and noise that is like the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
_Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Margins:
    """Room to add on each side, in pixels."""

    left: int = 0
    right: int = 0
    up: int = 0
    down: int = 0

    def around(self, pixels: Pixels) -> Pixels:
        """Return a picture, or a mask of one channel, with its outermost pixels drawn outward."""
        room: list[tuple[int, int]] = [(self.up, self.down), (self.left, self.right)]
        return np.pad(pixels, [*room, *[(0, 0)] * (pixels.ndim - 2)], mode="edge")

    def mask(self, width: int, height: int, overlap: int) -> Pixels:
        """Return a mask of the larger picture: white what is new, and so far into the old.

        Args:
            width: of the old picture.
            height: of the old picture.
            overlap: pixels of the old picture along the sides that grow.
        """
        mask = np.full(
            (self.up + height + self.down, self.left + width + self.right), 255, np.uint8
        )
        top = self.up + overlap if self.up else 0
        left = self.left + overlap if self.left else 0
        bottom = self.up + height - (overlap if self.down else 0)
        right = self.left + width - (overlap if self.right else 0)
        mask[top : max(bottom, top), left : max(right, left)] = 0
        return mask


def matched_noise(
    pixels: Pixels, unknown: npt.NDArray[np.bool_], *, falloff: float, variation: float, seed: int
) -> Pixels:
    """Return a picture whose unknown part is noise with the known part's structure and colours.

    White noise gets the known part's amplitudes at every frequency (its phases stay random), then
    its distribution of colours. So large and small shapes are as frequent as they were.

    Args:
        pixels: (height, width, 3).
        unknown: (height, width), True where noise shall be.
        falloff: exponent of the amplitudes; more gives larger, softer shapes.
        variation: how far colours go their own way, 0 to 1.
        seed: of the noise.
    """
    known = ~unknown
    if not unknown.any() or not known.any():
        return pixels
    values = pixels.astype(np.float64) / 255
    mean = values[known].mean(axis=0)
    centred = np.where(known[..., None], values - mean, 0.0)
    noise = np.random.default_rng(seed).standard_normal(values.shape)
    noise = noise.mean(axis=2, keepdims=True) * (1 - variation) + noise * variation
    shaped = np.empty_like(values)
    for channel in range(values.shape[2]):
        amplitudes = np.abs(np.fft.fft2(centred[..., channel])) ** falloff
        spectrum = np.fft.fft2(noise[..., channel]) * amplitudes
        drawn = np.fft.ifft2(spectrum).real
        shaped[..., channel] = _with_distribution(drawn, values[..., channel][known], unknown)
    result = pixels.copy()
    result[unknown] = np.rint(shaped[unknown].clip(0, 1) * 255).astype(np.uint8)
    return result


def _with_distribution(drawn: _Values, wanted: _Values, where: npt.NDArray[np.bool_]) -> _Values:
    """Return values whose order is theirs, and whose distribution `where` is the wanted one."""
    values = drawn[where]
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = (np.arange(len(values)) + 0.5) / len(values)
    result = np.zeros_like(drawn)
    result[where] = np.quantile(wanted, ranks)
    return result
