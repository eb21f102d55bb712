"""What a drawn picture shows, without any neural judge: background by colour, subject by retrieval.

A picture is cut out of its background, brought to one size, and looked up among the data set's
pictures in a fixed space of coarse colours and coarse edges, mirrored too: where the subject
stands, how large it is and which way it looks do not count. The scale is checked on the data's own
reconstructions, whose score is the best that any denoiser could reach with this autoencoder.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from . import data
from .latents import to_signal
from .subjects import BACKGROUNDS

BORDER = 5
CUT_SIZE = 96
STANDS_OUT = 0.12
"""How far, in 0..1, a pixel's colour must be from the background to belong to the subject."""


def features(pictures: np.ndarray) -> torch.Tensor:
    """Unit-scaled coarse colours (16x16) and edge directions (8x8x4), [n, 1024]."""
    signal = to_signal(pictures.astype(np.float32))
    colour = F.adaptive_avg_pool2d(signal, 16)
    grey = F.avg_pool2d(signal.mean(1, keepdim=True), 2)
    across = F.pad(grey[..., 1:] - grey[..., :-1], (0, 1))
    down = F.pad(grey[..., 1:, :] - grey[..., :-1, :], (0, 0, 0, 1))
    edges = torch.cat([across.relu(), (-across).relu(), down.relu(), (-down).relu()], 1)
    edges = F.adaptive_avg_pool2d(edges, 8).sqrt()
    parts = [colour.flatten(1) / colour[0].numel() ** 0.5, edges.flatten(1) / 16]
    return torch.cat(parts, 1)


def border_colour(picture: np.ndarray) -> str:
    """Name of the background whose colour is nearest to the border's mean."""
    ring = np.ones(picture.shape[:2], bool)
    ring[BORDER:-BORDER, BORDER:-BORDER] = False
    mean = picture[ring].mean(0) * 255
    return min(BACKGROUNDS, key=lambda name: float(((mean - BACKGROUNDS[name]) ** 2).sum()))


def cut_out(picture: np.ndarray, background: str) -> np.ndarray:
    """The smallest square around everything that is not background, at CUT_SIZE."""
    colour = np.asarray(BACKGROUNDS[background], np.float32) / 255
    outside = np.abs(picture - colour).max(-1) > STANDS_OUT
    # Single stray pixels must not decide how large the subject is.
    rows, columns = (np.flatnonzero(outside.sum(axis) > 2) for axis in (1, 0))
    if not len(rows) or not len(columns):
        rows = columns = np.arange(picture.shape[0])
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    top = (rows[0] + rows[-1] + 1 - side) // 2
    left = (columns[0] + columns[-1] + 1 - side) // 2
    framed = np.empty((side, side, 3), np.float32)
    framed[:] = colour
    y, x = max(top, 0), max(left, 0)
    part = picture[y : top + side, x : left + side]
    framed[y - top : y - top + part.shape[0], x - left : x - left + part.shape[1]] = part
    image = Image.fromarray((framed * 255).round().astype(np.uint8))
    return np.asarray(image.resize((CUT_SIZE, CUT_SIZE), Image.Resampling.BOX)) / np.float32(255)


class Gallery:
    """The data set's pictures on each background, as features."""

    def __init__(self, pictures: data.Pictures) -> None:
        self.pictures = pictures
        self._features = {
            background: features(
                np.stack(
                    [
                        cut_out(pictures.composite(i, background), background)
                        for i in range(len(pictures.rgba))
                    ]
                )
            )
            for background in BACKGROUNDS
        }

    def nearest(self, picture: np.ndarray, background: str) -> list[int]:
        """Indices of all pictures, the most similar first."""
        cut = cut_out(picture, background)
        both = features(np.stack([cut, cut[:, ::-1]]))
        distance = torch.cdist(both, self._features[background]).amin(0)
        order: list[int] = distance.argsort().tolist()
        return order

    def ranking(self, picture: np.ndarray, background: str) -> list[str]:
        """Subjects from the most similar on, each once."""
        order = self.nearest(picture, background)
        return list(dict.fromkeys(self.pictures.subjects[i] for i in order))

    def style(self, picture: np.ndarray, background: str, subject: str) -> str:
        """Style of the most similar picture of this subject."""
        order = self.nearest(picture, background)
        return next(self.pictures.styles[i] for i in order if self.pictures.subjects[i] == subject)
