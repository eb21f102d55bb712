"""RetinaFace over a ResNet, with the parameter names of its files: where faces are.

Deng et al. 2019, arXiv:1905.00641. Pictures are BGR from 0 to 255 less the means of its training,
(1, 3, height, width). At every place of three grids two boxes are tried; a result says how likely
each is a face, how it is to be moved, and where eyes, nose and corners of the mouth lie.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdforge.models.boxes import likeliest
from sdforge.models.faces.shapes import BOXES, FinderShape
from sdforge.models.learnt_norm import LearntNorm

MEANS = (104.0, 117.0, 123.0)
_EXPANSION = 4
_EPSILON = 1e-5
# Pixels between places of the grids, and the sides of the boxes tried there.
_GRIDS = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
# What predictions are multiples of: of a box's side, and of the logarithm of its growth.
_MOVES, _GROWS = 0.1, 0.2
_POINTS = 5


@dataclass(frozen=True)
class Found:
    """Boxes (n, 4): left, top, right, bottom; points (n, 5, 2), in pixels; and scores (n,)."""

    boxes: Tensor
    points: Tensor
    scores: Tensor

    def kept(self, chosen: Tensor) -> Found:
        """Return some of them."""
        return Found(self.boxes[chosen], self.points[chosen], self.scores[chosen])


class RetinaFace(nn.Module):
    """The whole network."""

    def __init__(self, shape: FinderShape) -> None:
        """Make the layers of a shape."""
        super().__init__()
        self.body = _Body(shape)
        outputs = [width * _EXPANSION for width in shape.widths[1:]]
        slope = 0.1 if shape.features <= 64 else 0.0
        self.fpn = _Pyramid(outputs, shape.features, slope)
        for number in range(1, 4):
            self.add_module(f"ssh{number}", _Context(shape.features, slope))
        self.ClassHead, self.BboxHead, self.LandmarkHead = (
            nn.ModuleList(_Head(shape.features, values) for _ in _GRIDS)
            for values in (2, 4, 2 * _POINTS)
        )

    def forward(self, picture: Tensor) -> Found:
        """Return all boxes that were tried on one picture, moved to where faces may be."""
        features = [
            self.get_submodule(f"ssh{number}")(x)
            for number, x in enumerate(self.fpn(self.body(picture)), 1)
        ]
        classes, moves, points = (
            torch.cat([head(x) for head, x in zip(heads, features, strict=True)])
            for heads in (self.ClassHead, self.BboxHead, self.LandmarkHead)
        )
        tried = tried_boxes(*picture.shape[2:]).to(moves)
        centres, sides = tried[:, :2], tried[:, 2:]
        middle = centres + moves[:, :2] * _MOVES * sides
        half = sides * torch.exp(moves[:, 2:] * _GROWS) / 2
        places = points.unflatten(1, (_POINTS, 2)) * _MOVES * sides[:, None] + centres[:, None]
        return Found(torch.cat([middle - half, middle + half], 1), places, classes.softmax(1)[:, 1])


def tried_boxes(height: int, width: int) -> Tensor:
    """Return centre and sides of the boxes tried on a picture, (n, 4), in pixels."""
    grids = []
    for step, sides in _GRIDS:
        rows = (torch.arange(math.ceil(height / step)) + 0.5) * step
        columns = (torch.arange(math.ceil(width / step)) + 0.5) * step
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centres = torch.stack([x, y], -1)[:, :, None].expand(-1, -1, len(sides), -1)
        both = torch.tensor(sides, dtype=torch.float32)[:, None].expand(*centres.shape)
        grids.append(torch.cat([centres, both], -1).flatten(0, 2))
    return torch.cat(grids)


def without_doubles(found: Found, overlap: float) -> Found:
    """Return the likeliest of boxes that share more than `overlap` of their joint area."""
    return found.kept(likeliest(found.boxes, found.scores, overlap))


def _plain(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


def _normed(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(_plain(inputs, outputs, kernel), LearntNorm(outputs, _EPSILON))


def _sloped(inputs: int, outputs: int, slope: float, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        _plain(inputs, outputs, kernel), LearntNorm(outputs, _EPSILON), nn.LeakyReLU(slope)
    )


class _Body(nn.Module):
    """ResNet (He et al. 2015, arXiv:1512.03385): what the last three stages see."""

    def __init__(self, shape: FinderShape) -> None:
        super().__init__()
        self.conv1 = _plain(3, shape.first, 7, 2)
        self.bn1 = LearntNorm(shape.first, _EPSILON)
        before = shape.first
        for stage, (width, depth) in enumerate(zip(shape.widths, shape.depths, strict=True), 1):
            blocks = nn.Sequential()
            for number in range(depth):
                stride = 2 if stage > 1 and number == 0 else 1
                blocks.append(_Bottleneck(before, width, stride, widens=number == 0))
                before = width * _EXPANSION
            self.add_module(f"layer{stage}", blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        seen = []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            seen.append(x)
        return seen[1:]


class _Bottleneck(nn.Module):
    """Three convolutions, the middle one narrow; what they find is added."""

    def __init__(self, inputs: int, width: int, stride: int, *, widens: bool) -> None:
        super().__init__()
        outputs = width * _EXPANSION
        self.conv1, self.bn1 = _plain(inputs, width, 1), LearntNorm(width, _EPSILON)
        self.conv2, self.bn2 = _plain(width, width, 3, stride), LearntNorm(width, _EPSILON)
        self.conv3, self.bn3 = _plain(width, outputs, 1), LearntNorm(outputs, _EPSILON)
        self.downsample: nn.Module | None = None
        if widens:
            self.downsample = nn.Sequential(
                _plain(inputs, outputs, 1, stride), LearntNorm(outputs, _EPSILON)
            )

    def forward(self, x: Tensor) -> Tensor:
        found = F.relu(self.bn1(self.conv1(x)))
        found = F.relu(self.bn2(self.conv2(found)))
        found = self.bn3(self.conv3(found))
        return F.relu(found + (x if self.downsample is None else self.downsample(x)))


class _Pyramid(nn.Module):
    """What is seen at large is added to what is seen at small."""

    def __init__(self, inputs: list[int], features: int, slope: float) -> None:
        super().__init__()
        for number, width in enumerate(inputs, 1):
            self.add_module(f"output{number}", _sloped(width, features, slope, 1))
        self.merge1, self.merge2 = (_sloped(features, features, slope) for _ in range(2))

    def forward(self, seen: list[Tensor]) -> list[Tensor]:
        small, middle, large = (
            self.get_submodule(f"output{number}")(x) for number, x in enumerate(seen, 1)
        )
        middle = self.merge2(middle + F.interpolate(large, size=middle.shape[2:], mode="nearest"))
        small = self.merge1(small + F.interpolate(middle, size=small.shape[2:], mode="nearest"))
        return [small, middle, large]


class _Context(nn.Module):
    """Looks around each place: three, five and seven pixels far."""

    def __init__(self, width: int, slope: float) -> None:
        super().__init__()
        self.conv3X3 = _normed(width, width // 2)
        self.conv5X5_1 = _sloped(width, width // 4, slope)
        self.conv5X5_2 = _normed(width // 4, width // 4)
        self.conv7X7_2 = _sloped(width // 4, width // 4, slope)
        self.conv7x7_3 = _normed(width // 4, width // 4)

    def forward(self, x: Tensor) -> Tensor:
        near = self.conv5X5_1(x)
        far = self.conv7x7_3(self.conv7X7_2(near))
        return F.relu(torch.cat([self.conv3X3(x), self.conv5X5_2(near), far], 1))


class _Head(nn.Module):
    """So many values for every box of a grid."""

    def __init__(self, inputs: int, values: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(inputs, values * BOXES, 1)
        self.values = values

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1x1(x)[0].movedim(0, -1).reshape(-1, self.values)
