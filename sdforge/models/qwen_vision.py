"""What Qwen2.5-VL sees pictures with: patches in, states that stand for words out.

Every second patch a side is merged with its neighbours, so a state stands for 28 × 28 pixels. Most
layers attend within windows of 112 pixels a side, every eighth to the whole picture. Bai et al.
2025, arXiv:2502.13923, section 2.1.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from sdforge.models.qwen import Gated, Norm, turned

PATCH, MERGE = 14, 2
STRIDE = PATCH * MERGE
# Sides of a window, in merged patches.
_WINDOW = 4
_FULL_EVERY = 8
_ROTATION_BASE, _EPSILON = 10_000.0, 1e-6
# The fewest pixels that a picture is brought to, and the most.
_FEWEST, _MOST = 56 * 56, 12_845_056
# Of each colour, over pictures from the web (CLIP's).
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class QwenVision(nn.Module):
    """Patches (patches, 3, 14, 14), in blocks of 2 × 2, to states (patches / 4, width of text)."""

    def __init__(
        self, *, width: int, hidden: int, layers: int, head: int, out: int, is_split: bool
    ) -> None:
        """Take the sizes.

        Args:
            width: of states inside.
            hidden: width inside the feed-forward part.
            layers: count.
            head: width of a head.
            out: width of the states that come out.
            is_split: the two frames of a film have tensors of their own, as in GGUF files.
        """
        super().__init__()
        self.width, self.head, self.out = width, head, out
        self.patch_embed = _SplitPatches(width) if is_split else _Patches(width)
        self.blocks = nn.ModuleList(_Block(width, hidden, head) for _ in range(layers))
        self.merger = _Merger(width, out)

    def forward(self, patches: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Return the states of one picture of so many rows and columns of patches, fp32."""
        states = self.patch_embed(patches)
        where = _places(rows, columns, states.device)
        turns = _turns(where, self.head)
        windows, whole = _windows(where), [torch.arange(len(states), device=states.device)[None]]
        for number, block in enumerate(self.blocks, start=1):
            is_full = number % _FULL_EVERY == 0 or number == len(self.blocks)
            states = block(states, whole if is_full else windows, turns)
        found: torch.Tensor = self.merger(states)
        return found


class _Patches(nn.Module):
    """Was trained on films: a still picture is two equal frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, width, (2, PATCH, PATCH), bias=False)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        first, second = self.proj.weight.unbind(2)
        return _embedded(patches, first, second)


class _SplitPatches(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, PATCH, bias=False)
        self.second = nn.Conv2d(3, width, PATCH, bias=False)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return _embedded(patches, self.first.weight, self.second.weight)


def _embedded(patches: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    flat = patches.flatten(1).to(first.dtype)
    return (F.linear(flat, first.flatten(1)) + F.linear(flat, second.flatten(1))).float()


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int, head: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(width, _EPSILON), Norm(width, _EPSILON)
        self.attn = _Attention(width, head)
        self.mlp = Gated(width, hidden, bias=True)

    def forward(
        self,
        states: torch.Tensor,
        groups: list[torch.Tensor],
        turns: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        states = states + self.attn(self.norm1(states), groups, turns).float()
        return states + self.mlp(self.norm2(states)).float()


class _Attention(nn.Module):
    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        states: torch.Tensor,
        groups: list[torch.Tensor],
        turns: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        query, key, value = (
            layer(states).unflatten(-1, (-1, self.head)).transpose(0, 1)
            for layer in (self.q, self.k, self.v)
        )
        query, key = (turned(one.float(), *turns).to(one.dtype) for one in (query, key))
        seen = torch.empty_like(states)
        for group in groups:  # (windows, patches in each)
            q, k, v = (one[:, group].transpose(0, 1) for one in (query, key, value))
            found = F.scaled_dot_product_attention(q, k, v)
            seen[group] = found.transpose(1, 2).flatten(2)
        answer: torch.Tensor = self.proj(seen)
        return answer


class _Merger(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        whole = width * MERGE**2
        self.ln_q = Norm(width, _EPSILON)
        self.mlp = nn.Sequential(nn.Linear(whole, whole), nn.GELU(), nn.Linear(whole, out))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        merged: torch.Tensor = self.mlp(self.ln_q(states).unflatten(0, (-1, MERGE**2)).flatten(1))
        return merged.float()


def _places(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Return row and column of each patch, (patches, 2), block of 2 × 2 after block."""
    grid = torch.stack(
        torch.meshgrid(
            torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
        ),
        dim=-1,
    )
    blocks = grid.view(rows // MERGE, MERGE, columns // MERGE, MERGE, 2).transpose(1, 2)
    return blocks.reshape(-1, 2)


def _turns(where: torch.Tensor, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine of each patch's angles, (patches, head): half for each direction."""
    half = head // 2
    steps = torch.arange(0, half, 2, dtype=torch.float32, device=where.device) / half
    angles = where[..., None].float() * (1.0 / _ROTATION_BASE**steps)
    both = angles.flatten(1).repeat(1, 2)
    return both.cos(), both.sin()


def _windows(where: torch.Tensor) -> list[torch.Tensor]:
    """Return the patches of windows, those of equal size together: (windows, patches in each)."""
    block = where // (_WINDOW * MERGE)
    number = block[:, 0] * (int(block[:, 1].max()) + 1) + block[:, 1]
    counts = torch.bincount(number)
    order = torch.argsort(number, stable=True)
    sizes = counts[number[order]]
    return [order[sizes == size].view(-1, int(size)) for size in counts.unique() if size]


def seen_size(width: int, height: int) -> tuple[int, int]:
    """Return the size in pixels that a picture is brought to: whole merged patches."""
    sides = [max(round(side / STRIDE), 1) * STRIDE for side in (width, height)]
    share = math.sqrt(width * height / (_MOST if math.prod(sides) > _MOST else _FEWEST))
    if math.prod(sides) > _MOST:
        sides = [max(math.floor(side / share / STRIDE), 1) * STRIDE for side in (width, height)]
    elif math.prod(sides) < _FEWEST:
        sides = [math.ceil(side / share / STRIDE) * STRIDE for side in (width, height)]
    return sides[0], sides[1]


def patches_of(picture: Image.Image) -> tuple[torch.Tensor, int, int]:
    """Return a picture's patches as `QwenVision` takes them, and their rows and columns."""
    size = seen_size(*picture.size)
    shown = picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(shown, np.float32) / 255)
    pixels = (pixels - torch.tensor(_MEAN)) / torch.tensor(_DEVIATION)
    rows, columns = size[1] // PATCH, size[0] // PATCH
    cut = pixels.view(rows // MERGE, MERGE, PATCH, columns // MERGE, MERGE, PATCH, 3)
    patches = cut.permute(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3, PATCH, PATCH)
    return patches, rows, columns
