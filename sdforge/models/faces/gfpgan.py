"""GFPGAN, with the parameter names of its files: a U-Net whose findings steer a StyleGAN2.

Wang et al. 2021, arXiv:2101.04061. Faces are RGB from −1 to 1, (n, 3, side, side). The generator's
noise is the file's own, so that a face comes out the same each time.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdforge.models.faces.shapes import GfpganShape

_SLOPE = 0.2
_EPSILON = 1e-8


class Gfpgan(nn.Module):
    """The whole network."""

    def __init__(self, shape: GfpganShape) -> None:
        """Make the layers of a shape."""
        super().__init__()
        unet, levels = shape.unet, shape.levels
        self.style, self.is_half = shape.style, shape.is_half
        self.conv_body_first = nn.Conv2d(3, unet[-1], 1)
        self.conv_body_down = nn.ModuleList(
            _Resized(wide, narrow, 0.5) for wide, narrow in pairwise(reversed(unet))
        )
        self.final_conv = nn.Conv2d(unet[0], unet[0], 3, padding=1)
        self.final_linear = nn.Linear(unet[0] * 16, shape.style * (2 * levels + 2))
        self.conv_body_up = nn.ModuleList(_Resized(a, b, 2.0) for a, b in pairwise(unet))
        advised = [width // 2 if shape.is_half else width for width in shape.decoder[1:]]
        self.condition_scale, self.condition_shift = (
            nn.ModuleList(_advice(width, to) for width, to in zip(unet[1:], advised, strict=True))
            for _ in range(2)
        )
        self.stylegan_decoder = _Generator(shape)

    def forward(self, faces: Tensor) -> Tensor:
        """Return restored faces, of values about −1 to 1."""
        x = F.leaky_relu(self.conv_body_first(faces), _SLOPE)
        seen = []
        for down in self.conv_body_down:
            x = down(x)
            seen.append(x)
        x = F.leaky_relu(self.final_conv(x), _SLOPE)
        styles = self.final_linear(x.flatten(1)).unflatten(1, (-1, self.style))
        advice = []
        for level, up in enumerate(self.conv_body_up):
            x = up(x + seen.pop())
            advice.append((self.condition_scale[level](x), self.condition_shift[level](x)))
        return self.stylegan_decoder(styles, advice, self.is_half)


class _Resized(nn.Module):
    """A residual block that halves or doubles the size."""

    def __init__(self, inputs: int, outputs: int, factor: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        found = _resized(F.leaky_relu(self.conv1(x), _SLOPE), self.factor)
        found = F.leaky_relu(self.conv2(found), _SLOPE)
        return found + self.skip(_resized(x, self.factor))


class _Generator(nn.Module):
    """StyleGAN2's picture of the styles (Karras et al. 2020, arXiv:1912.04958), with advice."""

    def __init__(self, shape: GfpganShape) -> None:
        super().__init__()
        widths, style = shape.decoder, shape.style
        self.constant_input = _Constant(widths[0])
        self.style_conv1 = _Styled(widths[0], widths[0], style)
        self.to_rgb1 = _ToRgb(widths[0], style)
        self.style_convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for inputs, outputs in pairwise(widths):
            self.style_convs.append(_Styled(inputs, outputs, style, doubles=True))
            self.style_convs.append(_Styled(outputs, outputs, style))
            self.to_rgbs.append(_ToRgb(outputs, style))
        self.noises = nn.Module()
        for number in range(2 * shape.levels + 1):
            side = 2 ** ((number + 5) // 2)
            self.noises.register_parameter(
                f"noise{number}", nn.Parameter(torch.empty(1, 1, side, side))
            )

    def forward(self, styles: Tensor, advice: list[tuple[Tensor, Tensor]], is_half: bool) -> Tensor:
        x = self.constant_input.weight.expand(len(styles), -1, -1, -1)
        x = self.style_conv1(x, styles[:, 0], self._noise(0))
        picture = self.to_rgb1(x, styles[:, 1])
        for level, (scale, shift) in enumerate(advice):
            at = 2 * level + 1
            x = self.style_convs[2 * level](x, styles[:, at], self._noise(at))
            kept = x[:, : x.shape[1] // 2] if is_half else x[:, :0]
            x = torch.cat([kept, x[:, kept.shape[1] :] * scale + shift], 1)
            x = self.style_convs[2 * level + 1](x, styles[:, at + 1], self._noise(at + 1))
            picture = _resized(picture, 2.0) + self.to_rgbs[level](x, styles[:, at + 2])
        return picture

    def _noise(self, number: int) -> Tensor:
        return self.noises.get_parameter(f"noise{number}")


class _Constant(nn.Module):
    """What every picture begins as."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, width, 4, 4))


class _Modulated(nn.Module):
    """A convolution whose inputs are weighed by a style."""

    def __init__(self, inputs: int, outputs: int, kernel: int, style: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(style, inputs)
        self.weight = nn.Parameter(torch.empty(1, outputs, inputs, kernel, kernel))

    def weights(self, style: Tensor) -> Tensor:
        """Return (n, outputs, inputs, kernel, kernel)."""
        return self.weight * self.modulation(style)[:, None, :, None, None]


def _convolved(x: Tensor, weights: Tensor) -> Tensor:
    """Convolve each picture with weights of its own."""
    batch, outputs, _, kernel, _ = weights.shape
    joint = x.reshape(1, -1, *x.shape[2:])
    made = F.conv2d(joint, weights.flatten(0, 1), padding=kernel // 2, groups=batch)
    return made.reshape(batch, outputs, *made.shape[2:])


class _Styled(nn.Module):
    """A modulated convolution, its weights brought to length one, with noise and a slope."""

    def __init__(self, inputs: int, outputs: int, style: int, *, doubles: bool = False) -> None:
        super().__init__()
        self.modulated_conv = _Modulated(inputs, outputs, 3, style)
        self.weight = nn.Parameter(torch.empty(1))
        self.bias = nn.Parameter(torch.empty(1, outputs, 1, 1))
        self.doubles = doubles

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        weights = self.modulated_conv.weights(style)
        lengths = torch.rsqrt(weights.square().sum((2, 3, 4), keepdim=True) + _EPSILON)
        x = _resized(x, 2.0) if self.doubles else x
        x = _convolved(x, weights * lengths) * math.sqrt(2)
        return F.leaky_relu(x + self.weight * noise + self.bias, _SLOPE)


class _ToRgb(nn.Module):
    """Three colours of what there is at one size."""

    def __init__(self, inputs: int, style: int) -> None:
        super().__init__()
        self.modulated_conv = _Modulated(inputs, 3, 1, style)
        self.bias = nn.Parameter(torch.empty(1, 3, 1, 1))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return _convolved(x, self.modulated_conv.weights(style)) + self.bias


def _advice(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1),
        nn.LeakyReLU(_SLOPE),
        nn.Conv2d(inputs, outputs, 3, padding=1),
    )


def _resized(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
