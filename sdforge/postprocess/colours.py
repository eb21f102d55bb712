"""Colours of one picture for another: what repeated img2img loses, this brings back.

Histograms are matched in CIE Lab; lightness stays the drawn picture's, only its colours move.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
_Values = npt.NDArray[np.float64]

# sRGB (IEC 61966-2-1) with the white of D65.
_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_WHITE = _TO_XYZ.sum(axis=1)
_LINEAR_BELOW = 6 / 29


def with_colours_of(drawn: Pixels, target: Pixels) -> Pixels:
    """Return `drawn` with the colours of `target`; sizes may differ, RGB (height, width, 3)."""
    lab, wanted = _to_lab(drawn), _to_lab(target)
    for channel in (1, 2):
        lab[..., channel] = _matched(lab[..., channel], wanted[..., channel])
    return _to_rgb(lab)


def _matched(values: _Values, target: _Values) -> _Values:
    """Return values moved so that their distribution becomes the target's."""
    known, places, counts = np.unique(values.round(2), return_inverse=True, return_counts=True)
    wanted, wanted_counts = np.unique(target.round(2), return_counts=True)
    shares = np.cumsum(counts) / values.size
    wanted_shares = np.cumsum(wanted_counts) / target.size
    moved = np.interp(shares, wanted_shares, wanted)
    return np.asarray(moved[places.reshape(values.shape)])


def _to_lab(pixels: Pixels) -> _Values:
    encoded = pixels.astype(np.float64) / 255
    linear = np.where(encoded > 0.04045, ((encoded + 0.055) / 1.055) ** 2.4, encoded / 12.92)
    ratio = linear @ _TO_XYZ.T / _WHITE
    bent = np.where(
        ratio > _LINEAR_BELOW**3, np.cbrt(ratio), ratio / (3 * _LINEAR_BELOW**2) + 4 / 29
    )
    x, y, z = np.moveaxis(bent, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _to_rgb(lab: _Values) -> Pixels:
    y = (lab[..., 0] + 16) / 116
    bent = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    ratio = np.where(bent > _LINEAR_BELOW, bent**3, 3 * _LINEAR_BELOW**2 * (bent - 4 / 29))
    linear = (ratio * _WHITE @ np.linalg.inv(_TO_XYZ).T).clip(0, 1)
    encoded = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, linear * 12.92)
    return np.asarray(np.rint(encoded * 255).clip(0, 255), np.uint8)
