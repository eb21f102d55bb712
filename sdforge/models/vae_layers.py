"""A VAE tile by tile with the whole picture's result: layer after layer, each over all tiles.

Tiles that are decoded one after another differ from the whole picture, since group norms take their
statistics from what they see, and the attention in the middle sees a tile. Here a layer is finished
for all tiles before the next begins: tiles take a border from their neighbours that is as wide as
the convolution, statistics are added up over tiles, and attention goes over all places, some
queries at a time. What layers make lies in main memory, one tile of it where the network computes.

For `AutoencoderKL` as Stable Diffusion and Flux have it; `can_run` tells. Weights are read layer by
layer, once each, whatever the memory mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdforge.models.vae_tiles import OnTile, nothing

# Numbers of attention's table of scores that are there at once, for each pixel of a tile.
_SCORES = 4

Weights = Callable[[str], Tensor]
# Maps what is there before a convolution to what goes into it.
_Before = Callable[[Tensor], Tensor]


def can_run(module: Any) -> bool:
    """Tell whether a network has the layers that are known here, and no others."""
    try:
        halves = (module.encoder, module.decoder)
        blocks = [*module.encoder.down_blocks, *module.decoder.up_blocks]
        middles = [half.mid_block for half in halves]
    except AttributeError:
        return False
    known = {"DownEncoderBlock2D", "UpDecoderBlock2D"}
    is_known = all(type(block).__name__ in known for block in blocks)
    attentions = [one for middle in middles for one in middle.attentions]
    return is_known and all(
        getattr(one, "group_norm", None) is not None and one.residual_connection and one.heads == 1
        for one in attentions
    )


def host_numbers(module: Any, height: int, width: int) -> int:
    """Return how many numbers lie in main memory at once, for a picture of so many pixels."""
    first, *_, last = module.decoder.up_blocks[-1].resnets
    widest = max(first.conv1.in_channels, module.encoder.conv_in.out_channels)
    return int((widest + 2 * last.conv1.out_channels) * height * width)


def attention_numbers(module: Any, height: int, width: int, tile: int) -> int:
    """Return how many numbers attention in the middle holds, for latents of a size.

    Args:
        module: the network.
        height: of the latents.
        width: of the latents.
        tile: side of a tile, in pixels.
    """
    places, channels = height * width, module.decoder.conv_in.out_channels
    some = min(_queries(places, tile), places)
    return int(2 * places * channels + some * (4 * places + 6 * channels))


@dataclass(frozen=True)
class Moments:
    """Mean and inverse deviation of each group of channels, fp32, (groups,)."""

    mean: Tensor
    inverse: Tensor


@dataclass(frozen=True)
class LayerRun:
    """One picture's way through a VAE.

    Attributes:
        module: the network, for its structure.
        weights: returns a tensor of it by name, where it computes and in the type it computes in.
        device: where that is.
        dtype: that type.
        tile: side of a tile in latent pixels; in pixels it is `scale` times that.
        wraps: whether opposite edges belong together.
        scale: pixels for each latent pixel.
        on_tile: called after each tile of each layer; it may raise to stop.
    """

    module: Any
    weights: Weights
    device: torch.device
    dtype: torch.dtype
    tile: int
    wraps: bool = False
    scale: int = 8
    on_tile: OnTile = nothing

    def decoded(self, latents: Tensor) -> Tensor:
        """Return the picture (1, 3, height, width) of plain latents, fp32 on the host."""
        decoder, x = self.module.decoder, latents.to("cpu", self.dtype)
        side = self.tile
        if self.module.post_quant_conv is not None:
            x = self._convolved(x, "post_quant_conv", side)
        x = self._middle(self._convolved(x, "decoder.conv_in", side), "decoder.mid_block", side)
        for number, block in enumerate(decoder.up_blocks):
            name = f"decoder.up_blocks.{number}"
            x = self._resnets(x, f"{name}.resnets", block.resnets, side)
            if block.upsamplers is not None:
                x = self._doubled(x, f"{name}.upsamplers.0.conv", side)
                side *= 2
        return self._last(x, "decoder", decoder, side).float()

    def moments(self, pixels: Tensor) -> Tensor:
        """Return mean and log variance (1, 2 × channels, height, width) of pixels from −1 to 1."""
        encoder, x = self.module.encoder, pixels.to("cpu", self.dtype)
        side = self.tile * self.scale
        x = self._convolved(x, "encoder.conv_in", side)
        for number, block in enumerate(encoder.down_blocks):
            name = f"encoder.down_blocks.{number}"
            x = self._resnets(x, f"{name}.resnets", block.resnets, side)
            if block.downsamplers is not None:
                side //= 2
                x = self._halved(x, f"{name}.downsamplers.0.conv", side)
        x = self._last(self._middle(x, "encoder.mid_block", side), "encoder", encoder, side)
        if self.module.quant_conv is not None:
            x = self._convolved(x, "quant_conv", side)
        return x.float()

    # --- blocks

    def _last(self, x: Tensor, name: str, half: Any, side: int) -> Tensor:
        before = self._normed(x, f"{name}.conv_norm_out", half.conv_norm_out, side)
        return self._convolved(x, f"{name}.conv_out", side, before)

    def _middle(self, x: Tensor, name: str, side: int) -> Tensor:
        block = self.module.get_submodule(name)
        x = self._resnets(x, f"{name}.resnets", block.resnets[:1], side)
        for number, attention in enumerate(block.attentions):
            x = self._attended(x, f"{name}.attentions.{number}", attention, side)
            following = block.resnets[number + 1 : number + 2]
            x = self._resnets(x, f"{name}.resnets", following, side, first=number + 1)
        return x

    def _resnets(self, x: Tensor, name: str, blocks: Any, side: int, first: int = 0) -> Tensor:
        for number, block in enumerate(blocks, first):
            own = f"{name}.{number}"
            inner = self._convolved(
                x, f"{own}.conv1", side, self._normed(x, f"{own}.norm1", block.norm1, side)
            )
            before = self._normed(inner, f"{own}.norm2", block.norm2, side)
            shortcut = None
            if block.conv_shortcut is not None:
                shortcut = self._weights_of(f"{own}.conv_shortcut")
            x = self._convolved(inner, f"{own}.conv2", side, before, (x, shortcut))
        return x

    def _attended(self, x: Tensor, name: str, block: Any, side: int) -> Tensor:
        """Add to all places what they find at all others."""
        norm = self._normed(x, f"{name}.group_norm", block.group_norm, side, active=False)
        query, key, value, out = (
            self._weights_of(f"{name}.{part}") for part in ("to_q", "to_k", "to_v", "to_out.0")
        )
        given, result = x[0].flatten(1), _host_map(tuple(x.shape), x.dtype)
        flat, places = result[0].flatten(1), given.shape[1]
        count = _queries(places, self.tile * self.scale)
        spans = [slice(start, start + count) for start in range(0, places, count)]

        def normed(span: slice) -> Tensor:
            return norm(given[None, :, span, None].to(self.device))[0, :, :, 0].T

        keys = torch.empty(1, places, given.shape[0], device=self.device, dtype=self.dtype)
        values = torch.empty_like(keys)
        for span in spans:
            keys[0, span], values[0, span] = (
                F.linear(normed(span), *key),
                F.linear(normed(span), *value),
            )
        for span in spans:
            asked = F.linear(normed(span), *query)[None]
            found = F.linear(F.scaled_dot_product_attention(asked, keys, values)[0], *out)
            flat[:, span] = found.T.cpu() + given[:, span]
            self.on_tile()
        return result

    # --- layers

    def _normed(
        self, x: Tensor, name: str, norm: nn.GroupNorm, side: int, *, active: bool = True
    ) -> _Before:
        """Return what a norm, and the activation behind it, makes of any part of `x`."""
        found = self._statistics(x, norm, side)
        weight, bias = self.weights(f"{name}.weight"), self.weights(f"{name}.bias")
        each = x.shape[1] // norm.num_groups
        scale = weight.float() * found.inverse.repeat_interleave(each)
        shift = bias.float() - found.mean.repeat_interleave(each) * scale

        def before(part: Tensor) -> Tensor:
            plain = torch.addcmul(shift[:, None, None], part.float(), scale[:, None, None])
            plain = plain.to(self.dtype)
            return F.silu(plain) if active else plain

        return before

    def _statistics(self, x: Tensor, norm: nn.GroupNorm, side: int) -> Moments:
        """Return the moments of each group over the whole picture, added up over tiles.

        By Chan, Golub and LeVeque's rule (1979): squares are taken from each tile's own mean, so
        that nothing cancels.
        """
        count, mean, squares = 0, torch.zeros(norm.num_groups), torch.zeros(norm.num_groups)
        mean, squares = mean.double(), squares.double()
        for rows, columns in _tiles(x.shape[-2], x.shape[-1], side):
            part = x[..., rows, columns].to(self.device).float()
            groups = part.reshape(norm.num_groups, -1)
            variance, middle = (
                one.cpu().double() for one in torch.var_mean(groups, 1, correction=0)
            )
            number = groups.shape[1]
            away, total = middle - mean, count + number
            mean = mean + away * (number / total)
            squares = squares + variance * number + away.square() * (count * number / total)
            count = total
            self.on_tile()
        inverse = (squares / count + norm.eps).rsqrt()
        return Moments(mean.float().to(self.device), inverse.float().to(self.device))

    def _convolved(
        self,
        x: Tensor,
        name: str,
        side: int,
        before: _Before | None = None,
        added: tuple[Tensor, tuple[Tensor, Tensor | None] | None] | None = None,
    ) -> Tensor:
        """Return a convolution that keeps the size, of what `before` makes of `x`.

        Args:
            x: on the host.
            name: of the convolution.
            side: of a tile.
            before: see there.
            added: what is added to the result, and a 1 × 1 convolution that it goes through.
        """
        weight, bias = self._weights_of(name)
        around = weight.shape[-1] // 2

        def compute(rows: slice, columns: slice) -> Tensor:
            made = F.conv2d(self._part(x, rows, columns, around, before), weight, bias)
            if added is None:
                return made
            more, shortcut = added
            part = more[..., rows, columns].to(self.device)
            return made + (part if shortcut is None else F.conv2d(part, *shortcut))

        return self._all(x.shape[-2:], weight.shape[0], side, compute)

    def _doubled(self, x: Tensor, name: str, side: int) -> Tensor:
        """Return the convolution of `x` with every pixel made four."""
        weight, bias = self._weights_of(name)

        def compute(rows: slice, columns: slice) -> Tensor:
            # Of the source one more pixel around, of which half is needed.
            sources = (_halves(rows), _halves(columns))
            part = self._part(x, *sources, 1, None)
            part = F.interpolate(part, scale_factor=2.0, mode="nearest")
            return F.conv2d(part[..., 1:-1, 1:-1], weight, bias)

        height, width = x.shape[-2:]
        return self._all((2 * height, 2 * width), weight.shape[0], 2 * side, compute)

    def _halved(self, x: Tensor, name: str, side: int) -> Tensor:
        """Return a convolution in steps of two; what lies beyond right and below is nothing."""
        weight, bias = self._weights_of(name)
        height, width = x.shape[-2:]

        def compute(rows: slice, columns: slice) -> Tensor:
            down, across = (slice(2 * one.start, 2 * one.stop + 1) for one in (rows, columns))
            part = x[..., down, across].to(self.device)
            beyond = (max(across.stop - width, 0), max(down.stop - height, 0))
            return F.conv2d(F.pad(part, (0, beyond[0], 0, beyond[1])), weight, bias, stride=2)

        return self._all((height // 2, width // 2), weight.shape[0], side, compute)

    def _all(
        self,
        size: Any,
        channels: int,
        side: int,
        compute: Callable[[slice, slice], Tensor],
    ) -> Tensor:
        """Return a layer's result, put together from tiles on the host."""
        result = _host_map((1, channels, *size), self.dtype)
        for rows, columns in _tiles(size[0], size[1], side):
            result[..., rows, columns] = compute(rows, columns).cpu()
            self.on_tile()
        return result

    def _part(
        self, x: Tensor, rows: slice, columns: slice, around: int, before: _Before | None
    ) -> Tensor:
        """Return a part of `x` with so many pixels around it, where the network computes.

        Beyond the edges lies nothing, or what is at the opposite edge.
        """
        height, width = x.shape[-2:]
        if self.wraps and around:
            down = torch.arange(rows.start - around, rows.stop + around) % height
            across = torch.arange(columns.start - around, columns.stop + around) % width
            part = x[..., down, :][..., across].to(self.device)
            return part if before is None else before(part)
        top, left = max(rows.start - around, 0), max(columns.start - around, 0)
        bottom, right = min(rows.stop + around, height), min(columns.stop + around, width)
        part = x[..., top:bottom, left:right].to(self.device)
        part = part if before is None else before(part)
        beyond = (
            around - (columns.start - left), around - (right - columns.stop),
            around - (rows.start - top), around - (bottom - rows.stop),
        )  # fmt: skip
        return F.pad(part, beyond) if any(beyond) else part

    def _weights_of(self, name: str) -> tuple[Tensor, Tensor | None]:
        part = self.module.get_submodule(name)
        bias = self.weights(f"{name}.bias") if part.bias is not None else None
        return self.weights(f"{name}.weight"), bias


def _halves(one: slice) -> slice:
    return slice(one.start // 2, one.stop // 2)


def _queries(places: int, tile: int) -> int:
    """Return how many places look at all others at once."""
    return max(_SCORES * tile**2 // places, 1)


def _host_map(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return main memory for what a layer makes, which is no device's whatever computes."""
    return (
        torch.from_numpy(np.empty(math.prod(shape) * dtype.itemsize, np.uint8))
        .view(dtype)
        .view(shape)
    )


def _tiles(height: int, width: int, side: int) -> Iterator[tuple[slice, slice]]:
    """Yield places of tiles that cover a size and share nothing; they begin at even places."""
    for rows in _spans(height, side):
        for columns in _spans(width, side):
            yield rows, columns


def _spans(length: int, side: int) -> Iterator[slice]:
    side = max(side // 2 * 2, 2)
    for start in range(0, length, side):
        yield slice(start, min(start + side, length))
