"""CodeFormer, with the parameter names of its files: faces from a book of learnt pieces.

Zhou et al. 2022, arXiv:2206.11253. An encoder looks at the face, a transformer names the piece of
the book that belongs at each place, a generator draws them; how much of what the encoder saw comes
in besides is the fidelity. Faces are RGB from −1 to 1, (n, 3, side, side).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdforge.models.faces.shapes import CodeFormerShape

_GROUPS, _EPSILON = 32, 1e-6
_SLOPE = 0.2
_HEADS = 8
# Residual blocks at each size.
_BLOCKS = 2
# Of the spread that pieces are brought to; it keeps flat ones from being divided by nothing.
_FLAT = 1e-5


class CodeFormer(nn.Module):
    """The whole network."""

    def __init__(self, shape: CodeFormerShape) -> None:
        """Make the layers of a shape."""
        super().__init__()
        encoder, self._seen_at = _encoder(shape)
        generator, self._fused_at = _generator(shape)
        self.encoder, self.generator = _Row(encoder), _Row(generator)
        self.quantize = _Book(shape.entries, shape.features)
        self.position_emb = nn.Parameter(torch.empty(shape.code**2, shape.transformer))
        self.feat_emb = nn.Linear(shape.features, shape.transformer)
        self.ft_layers = nn.ModuleList(
            _Layer(shape.transformer, shape.hidden) for _ in range(shape.layers)
        )
        self.idx_pred_layer = nn.Sequential(
            nn.LayerNorm(shape.transformer),
            nn.Linear(shape.transformer, shape.entries, bias=False),
        )
        sizes = {shape.side >> level: width for level, width in enumerate(shape.widths)}
        self.fuse_convs_dict = nn.ModuleDict(
            {str(size): _Fused(sizes[size]) for size in shape.fused}
        )

    def forward(self, faces: Tensor, fidelity: float) -> Tensor:
        """Return restored faces; `fidelity` from 0 (the book alone) to 1 (what was seen)."""
        x, seen = faces, {}
        for number, block in enumerate(self.encoder.blocks):
            x = block(x)
            if number in self._seen_at and fidelity > 0:
                seen[self._seen_at[number]] = x
        x = self._from_book(x)
        for number, block in enumerate(self.generator.blocks):
            x = block(x)
            if number in self._fused_at and fidelity > 0:
                size = self._fused_at[number]
                x = self.fuse_convs_dict[size](seen.pop(size), x, fidelity)
        return x

    def _from_book(self, found: Tensor) -> Tensor:
        """Return the pieces that the transformer names, in the colours and contrast of `found`."""
        places = self.feat_emb(found.flatten(2).transpose(1, 2))
        for layer in self.ft_layers:
            places = layer(places, self.position_emb)
        chosen = self.idx_pred_layer(places).argmax(2)
        pieces = self.quantize.embedding(chosen).transpose(1, 2).reshape(found.shape)
        # Adaptive instance normalisation, arXiv:1703.06868 Eq. 8.
        mean, spread = _moments(found)
        own_mean, own_spread = _moments(pieces)
        return (pieces - own_mean) / own_spread * spread + mean


class _Row(nn.Module):
    """Blocks one after another."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks


class _Book(nn.Module):
    """The learnt pieces."""

    def __init__(self, entries: int, features: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(entries, features)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x, (2, 3), keepdim=True)
    return mean, (variance + _FLAT).sqrt()


def _encoder(shape: CodeFormerShape) -> tuple[nn.ModuleList, dict[int, str]]:
    """Return the encoder's blocks, and behind which of them something is looked at."""
    blocks, seen = nn.ModuleList([nn.Conv2d(3, shape.widths[0], 3, padding=1)]), {}
    before = shape.widths[0]
    for level, width in enumerate(shape.widths):
        is_last = level + 1 == len(shape.widths)
        for _ in range(_BLOCKS):
            blocks.append(_Residual(before, width))
            before = width
            if is_last:
                blocks.append(_Attention(width))
        if (size := shape.side >> level) in shape.fused:
            seen[len(blocks) - 1] = str(size)
        if not is_last:
            blocks.append(_Halved(width))
    blocks.extend([_Residual(before, before), _Attention(before), _Residual(before, before)])
    blocks.extend([_norm(before), nn.Conv2d(before, shape.features, 3, padding=1)])
    return blocks, seen


def _generator(shape: CodeFormerShape) -> tuple[nn.ModuleList, dict[int, str]]:
    """Return the generator's blocks, and behind which of them what was seen comes in."""
    before = shape.widths[-1]
    blocks, fused = nn.ModuleList([nn.Conv2d(shape.features, before, 3, padding=1)]), {}
    blocks.extend([_Residual(before, before), _Attention(before), _Residual(before, before)])
    for level, width in reversed(list(enumerate(shape.widths))):
        for number in range(_BLOCKS):
            blocks.append(_Residual(before, width))
            before = width
            if level + 1 == len(shape.widths):
                blocks.append(_Attention(width))
            if number == 0 and (size := shape.side >> level) in shape.fused:
                fused[len(blocks) - 1] = str(size)
        if level:
            blocks.append(_Doubled(width))
    blocks.extend([_norm(before), nn.Conv2d(before, 3, 3, padding=1)])
    return blocks, fused


class _Residual(nn.Module):
    """Two convolutions behind norms; what they find is added."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = _norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_out = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        found = self.conv1(F.silu(self.norm1(x)))
        found = self.conv2(F.silu(self.norm2(found)))
        return found + (x if self.conv_out is None else self.conv_out(x))


class _Attention(nn.Module):
    """Attention of all places to all, with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = (part(normed).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        found = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(found.transpose(1, 2).reshape(x.shape))


class _Halved(nn.Module):
    """Half the size; what is beyond the right and lower edge is black."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Doubled(nn.Module):
    """Twice the size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Fused(nn.Module):
    """Changes what is drawn by what was seen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encode_enc = _Residual(2 * width, width)
        self.scale, self.shift = (
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.LeakyReLU(_SLOPE),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in range(2)
        )

    def forward(self, seen: Tensor, drawn: Tensor, fidelity: float) -> Tensor:
        both = self.encode_enc(torch.cat([seen, drawn], 1))
        return drawn + fidelity * (drawn * self.scale(both) + self.shift(both))


class _Layer(nn.Module):
    """One layer of the transformer; places are told to queries and keys alone."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = _SelfAttention(width)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        x = x + self.self_attn(self.norm1(x), position)
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


class _SelfAttention(nn.Module):
    """torch's multi-head attention by its parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        weights = self.in_proj_weight.unflatten(0, (3, -1))
        biases = self.in_proj_bias.unflatten(0, (3, -1))
        inputs = (x + position, x + position, x)
        q, k, v = (
            F.linear(given, weight, bias).unflatten(2, (_HEADS, -1)).transpose(1, 2)
            for given, weight, bias in zip(inputs, weights, biases, strict=True)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_GROUPS, width), width, eps=_EPSILON)
