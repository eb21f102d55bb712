"""The upscaler networks, with the parameter names of Real-ESRGAN's files.

Pictures are RGB floats from 0 to 1, (n, 3, height, width); results may leave that range a little.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdforge.models.upscalers.shapes import COLOURS, ESRGAN, UpscalerShape

_SLOPE = 0.2
# How much of what a block found is added to what it was given; both papers' value.
_RESIDUAL = 0.2


def make_network(shape: UpscalerShape) -> nn.Module:
    """Return a network of a shape, on torch's current default device."""
    return Esrgan(shape) if shape.kind == ESRGAN else Compact(shape)


def activation_numbers(shape: UpscalerShape) -> int:
    """Return how many numbers a network holds at once for each pixel of a picture, at most.

    Counted by hand along `forward`: of the deepest place inside a dense block, and of the
    convolutions at full size, where a layer's input and result are there at once.
    """
    result = COLOURS * shape.scale**2
    if shape.kind == ESRGAN:
        inner = shape.features + 4 * shape.growth
        # The four pictures that residuals wait for, the parts, and one joint copy of them.
        dense = (4 * shape.features + 2 * inner + shape.growth) // shape.squeeze**2
        full = 2 * shape.features * shape.scale**2 + shape.features // shape.squeeze**2
        return max(dense, full) + result + COLOURS
    return max(2 * shape.features, shape.features + result, 2 * result) + result + COLOURS


def reach(shape: UpscalerShape) -> int:
    """Return how many pixels away a pixel can still count for another, in pixels of the input."""
    if shape.kind == ESRGAN:
        inner = 2 + shape.blocks * 3 * 5
        return shape.squeeze * inner + 2 * shape.doublings + 2
    return shape.blocks + 2


class _Dense(nn.Module):
    """Five convolutions, each of which sees what all before it found."""

    def __init__(self, shape: UpscalerShape) -> None:
        super().__init__()
        width, growth = shape.features, shape.growth
        for number in range(1, 5):
            inputs = width + (number - 1) * growth
            self.add_module(f"conv{number}", nn.Conv2d(inputs, growth, 3, padding=1))
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, padding=1)
        self.shortcut: nn.Module | None = None
        if shape.has_shortcuts:
            self.shortcut = nn.Conv2d(width, growth, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with what was found added."""
        seen = [x]
        for number in range(1, 5):
            found = self.get_submodule(f"conv{number}")(torch.cat(seen, 1))
            found = F.leaky_relu_(found, _SLOPE)
            # ESRGAN+: the second and the fourth have a residual of their own.
            if self.shortcut is not None and number == 2:
                found = found + self.shortcut(x)
            if self.shortcut is not None and number == 4:
                found = found + seen[2]
            seen.append(found)
        return self.conv5(torch.cat(seen, 1)).mul_(_RESIDUAL).add_(x)


class _Block(nn.Module):
    """Three dense blocks and a residual around them."""

    def __init__(self, shape: UpscalerShape) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = _Dense(shape), _Dense(shape), _Dense(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with what was found added."""
        return self.rdb3(self.rdb2(self.rdb1(x))).mul_(_RESIDUAL).add_(x)


class Esrgan(nn.Module):
    """ESRGAN's generator."""

    def __init__(self, shape: UpscalerShape) -> None:
        """Make the layers of a shape."""
        super().__init__()
        width = shape.features
        self.squeeze = shape.squeeze
        self.doublings = shape.doublings
        self.conv_first = nn.Conv2d(COLOURS * shape.squeeze**2, width, 3, padding=1)
        self.body = nn.Sequential(*(_Block(shape) for _ in range(shape.blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        for number in range(1, shape.doublings + 1):
            self.add_module(f"conv_up{number}", nn.Conv2d(width, width, 3, padding=1))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, COLOURS, 3, padding=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return larger pictures; sides must be multiples of `squeeze`."""
        x = F.pixel_unshuffle(pictures, self.squeeze) if self.squeeze > 1 else pictures
        x = self.conv_first(x)
        x = self.conv_body(self.body(x)).add_(x)
        for number in range(1, self.doublings + 1):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = F.leaky_relu_(self.get_submodule(f"conv_up{number}")(x), _SLOPE)
        return self.conv_last(F.leaky_relu_(self.conv_hr(x), _SLOPE))


class Compact(nn.Module):
    """A row of convolutions with slopes between; what it finds is added to repeated pixels."""

    def __init__(self, shape: UpscalerShape) -> None:
        """Make the layers of a shape."""
        super().__init__()
        width = shape.features
        layers: list[nn.Module] = [nn.Conv2d(COLOURS, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(shape.blocks):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        layers.append(nn.Conv2d(width, COLOURS * shape.scale**2, 3, padding=1))
        self.body = nn.Sequential(*layers)
        self.scale = shape.scale

    def forward(self, pictures: Tensor) -> Tensor:
        """Return larger pictures."""
        found = F.pixel_shuffle(self.body(pictures), self.scale)
        if self.scale == 1:
            return found.add_(pictures)
        return found.add_(F.interpolate(pictures, scale_factor=self.scale, mode="nearest"))
