"""What each kind of adapter does to a weight: pure functions of tensors, one class a kind.

`apply(weight, multiplier)` returns a new weight; the one it gets, in fp32, is never written to.
Factors stay in the type of their file and go to the weight's device and type when they are used.
`lora_file.py` makes these from the tensors of a file. The forms are those of kohya's sd-scripts,
LyCORIS and PEFT, where files come from.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch

Shape = tuple[int, ...]


class Kind(Protocol):
    """A change of one weight."""

    def fits(self, shape: Shape) -> bool:
        """Tell whether it can be applied to a weight of this shape."""

    def apply(self, weight: torch.Tensor, multiplier: float) -> torch.Tensor:
        """Return the changed weight; 0 changes nothing, 1 is as trained."""


def _as(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return tensor.to(like.device, like.dtype)


class Sum(ABC):
    """A change that does not depend on the weight: W + m·ΔW."""

    @abstractmethod
    def fits(self, shape: Shape) -> bool:
        """Tell whether it can be applied to a weight of this shape."""

    @abstractmethod
    def delta(self, shape: Shape, like: torch.Tensor) -> torch.Tensor:
        """Return what multiplier 1 adds to a weight of `shape`, where and as `like` is."""

    def apply(self, weight: torch.Tensor, multiplier: float) -> torch.Tensor:
        """Return weight + multiplier × delta."""
        return torch.add(weight, self.delta(tuple(weight.shape), weight), alpha=multiplier)


@dataclass(frozen=True, eq=False)
class Lora(Sum):
    """ΔW = s·up·down, with a core between them for convolutions (Tucker).

    Hu et al. 2021, arXiv:2106.09685; convolutions as in LoCon: `up` (out, r, 1, 1), `down`
    (r, in, h, w), or `mid` (r, r, h, w) between `up` and `down` (r, in, 1, 1).
    """

    up: torch.Tensor
    down: torch.Tensor
    scale: float
    mid: torch.Tensor | None = None

    def cut(self, rank: int) -> Lora:
        """Return the first `rank` ranks alone, at the same scale (A1111's `dyn`)."""
        if self.mid is not None or rank >= self.down.shape[0]:
            return self
        return Lora(self.up[:, :rank], self.down[:rank], self.scale)

    def fits(self, shape: Shape) -> bool:
        """Tell whether rows and columns are as many."""
        columns = math.prod(self.down.shape[1:])
        if self.mid is not None:
            columns *= math.prod(self.mid.shape[2:])
        return self.up.shape[0] == shape[0] and columns == math.prod(shape[1:])

    def delta(self, shape: Shape, like: torch.Tensor) -> torch.Tensor:
        """Return s·up·down in the weight's shape."""
        up, down = _as(self.up, like).flatten(1), _as(self.down, like)
        if self.mid is not None:
            core = torch.einsum("nmhw,mi->nihw", _as(self.mid, like), down.flatten(1))
            down = core.flatten(1)
        return (up @ down.flatten(1)).mul_(self.scale).view(shape)

    def apply(self, weight: torch.Tensor, multiplier: float) -> torch.Tensor:
        """Return weight + multiplier × delta, in one pass over the weight."""
        if self.mid is not None:
            return super().apply(weight, multiplier)
        flat = weight.reshape(weight.shape[0], -1)
        up, down = _as(self.up, weight).flatten(1), _as(self.down, weight).flatten(1)
        return torch.addmm(flat, up, down, alpha=multiplier * self.scale).view(weight.shape)


def _tucker(core: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return (out, in, h, w) from a core (r, r, h, w), (r, out) and (r, in)."""
    return torch.einsum("ijhw,ip,jq->pqhw", core, first, second).contiguous()


@dataclass(frozen=True, eq=False)
class Loha(Sum):
    """ΔW = s·(A₁B₁)∘(A₂B₂): the Hadamard product of two low-rank ones.

    Hyeon-Woo et al. 2021 (FedPara), arXiv:2108.06098; with cores `t1`, `t2` (r, r, h, w) its
    section 2.3 for convolutions, where the factors are (r, out) and (r, in).
    """

    w1: tuple[torch.Tensor, torch.Tensor]
    w2: tuple[torch.Tensor, torch.Tensor]
    scale: float
    cores: tuple[torch.Tensor, torch.Tensor] | None = None

    def fits(self, shape: Shape) -> bool:
        """Tell whether rows and columns are as many."""
        first, second = self.w1
        if self.cores is None:
            return first.shape[0] == shape[0] and second.shape[1] == math.prod(shape[1:])
        outer = (first.shape[1], second.shape[1], *self.cores[0].shape[2:])
        return outer == tuple(shape)

    def delta(self, shape: Shape, like: torch.Tensor) -> torch.Tensor:
        """Return the scaled product in the weight's shape."""
        (a1, b1), (a2, b2) = ((_as(a, like), _as(b, like)) for a, b in (self.w1, self.w2))
        if self.cores is None:
            product = (a1 @ b1).mul_(a2 @ b2)
        else:
            t1, t2 = (_as(core, like) for core in self.cores)
            product = _tucker(t1, a1, b1).mul_(_tucker(t2, a2, b2))
        return product.mul_(self.scale).reshape(shape)


@dataclass(frozen=True, eq=False)
class Lokr(Sum):
    """ΔW = s·(W₁ ⊗ W₂), each factor whole or of low rank.

    Yeh et al. 2023 (LyCORIS), arXiv:2309.14859, section 3.2. A factor is (matrix,), (A, B), or for
    W₂ also (core, A, B) with A (r, out) and B (r, in).
    """

    w1: tuple[torch.Tensor, ...]
    w2: tuple[torch.Tensor, ...]
    scale: float

    def fits(self, shape: Shape) -> bool:
        """Tell whether the product has the weight's rows and as many numbers."""
        (rows1, size1), (rows2, size2) = _factor_size(self.w1), _factor_size(self.w2)
        return rows1 * rows2 == shape[0] and size1 * size2 == math.prod(shape)

    def delta(self, shape: Shape, like: torch.Tensor) -> torch.Tensor:
        """Return the scaled product in the weight's shape."""
        first, second = _factor(self.w1, like), _factor(self.w2, like)
        if second.ndim == 2 and len(shape) == 4:
            # (out, in·h·w) of a convolution: its kernel lies innermost.
            second = second.reshape(second.shape[0], -1, *shape[2:])
        first = first.reshape(*first.shape[:2], *[1] * (second.ndim - 2))
        return torch.kron(first, second).mul_(self.scale).reshape(shape)


def _factor(parts: tuple[torch.Tensor, ...], like: torch.Tensor) -> torch.Tensor:
    first, *rest = (_as(part, like) for part in parts)
    if not rest:
        return first
    return first @ rest[0] if len(rest) == 1 else _tucker(first, rest[0], rest[1])


def _factor_size(parts: tuple[torch.Tensor, ...]) -> tuple[int, int]:
    """Return rows and numbers of what `_factor` makes."""
    if len(parts) == 1:
        return parts[0].shape[0], parts[0].numel()
    if len(parts) == 2:
        return parts[0].shape[0], parts[0].shape[0] * math.prod(parts[1].shape[1:])
    core, a, b = parts
    return a.shape[1], a.shape[1] * b.shape[1] * math.prod(core.shape[2:])


@dataclass(frozen=True, eq=False)
class Difference(Sum):
    """ΔW = s·D with D whole: `diff`, `diff_b`, `w_norm`, `b_norm`, and biases of other kinds."""

    difference: torch.Tensor
    scale: float = 1.0

    def fits(self, shape: Shape) -> bool:
        """Tell whether it has as many rows and numbers."""
        found = tuple(self.difference.shape)
        return found[:1] == tuple(shape[:1]) and math.prod(found) == math.prod(shape)

    def delta(self, shape: Shape, like: torch.Tensor) -> torch.Tensor:
        """Return the difference in the weight's shape."""
        return (_as(self.difference, like) * self.scale).reshape(shape)


@dataclass(frozen=True, eq=False)
class Ia3:
    """W' = W·(1 + m·v), one number for each row, or for each input channel.

    Liu et al. 2022 (IA³), arXiv:2205.05638; `vector` is the change from 1, as LyCORIS trains it.
    """

    vector: torch.Tensor
    on_input: bool

    def fits(self, shape: Shape) -> bool:
        """Tell whether there is a number for each channel."""
        place = 1 if self.on_input else 0
        return len(shape) > place and self.vector.numel() == shape[place]

    def apply(self, weight: torch.Tensor, multiplier: float) -> torch.Tensor:
        """Return the scaled weight."""
        sides = [1] * weight.ndim
        sides[1 if self.on_input else 0] = -1
        return weight * (1 + multiplier * _as(self.vector, weight).reshape(sides))


@dataclass(frozen=True, eq=False)
class Dora:
    """W' = W + m·(d·(W + ΔW)/‖W + ΔW‖ − W): direction and length apart.

    Liu et al. 2024, arXiv:2402.09353. The norm is over each row where `magnitude` is (out, 1, …),
    as in PEFT, and over each input channel where it is (1, in, …), as the paper has it and
    LyCORIS by default. A multiplier goes straight from W to W'; the files say nothing about it,
    and LyCORIS' own way differs where it is not 1.
    """

    base: Sum
    magnitude: torch.Tensor

    def fits(self, shape: Shape) -> bool:
        """Tell whether base and magnitude do."""
        return self.base.fits(shape) and self.magnitude.numel() == shape[self._axis(shape)]

    @property
    def is_by_row(self) -> bool:
        """Whether each row's length is set, and not each input channel's."""
        return not (self.magnitude.ndim > 1 and self.magnitude.shape[0] == 1)

    def _axis(self, shape: Shape) -> int:
        return 1 if not self.is_by_row and (shape[0] != 1 or self.magnitude.numel() > 1) else 0

    def apply(self, weight: torch.Tensor, multiplier: float) -> torch.Tensor:
        """Return the weight moved by `multiplier` of the way."""
        shape = tuple(weight.shape)
        axis = self._axis(shape)
        sides = [1] * weight.ndim
        sides[axis] = -1
        moved = weight + self.base.delta(shape, weight)
        others = [place for place in range(weight.ndim) if place != axis]
        length = torch.linalg.vector_norm(moved, dim=others, keepdim=True)
        least = torch.finfo(weight.dtype).tiny
        moved *= _as(self.magnitude, weight).reshape(sides) / length.clamp_min(least)
        return torch.lerp(weight, moved, multiplier)


@dataclass(frozen=True, eq=False)
class Glora:
    """ΔW = s·(B₁B₂ + W·A₁A₂), with A₁ (in, r), A₂ (r, in), B₁ (out, r), B₂ (r, in).

    Chavan et al. 2023, arXiv:2306.07967, in the form of LyCORIS.
    """

    a: tuple[torch.Tensor, torch.Tensor]
    b: tuple[torch.Tensor, torch.Tensor]
    scale: float

    def fits(self, shape: Shape) -> bool:
        """Tell whether the factors match the weight's sides."""
        is_product = self.b[0].shape[0] == shape[0]
        is_product &= math.prod(self.b[1].shape[1:]) == math.prod(shape[1:])
        return is_product and self.a[0].shape[0] == shape[1]

    def apply(self, weight: torch.Tensor, multiplier: float) -> torch.Tensor:
        """Return weight + multiplier × delta, where the delta depends on the weight."""
        a1, a2, b1, b2 = (_as(factor, weight).flatten(1) for factor in (*self.a, *self.b))
        own = torch.einsum("oi...,ir,rj->oj...", weight, a1, a2)
        change = (b1 @ b2).view(weight.shape) + own
        return torch.add(weight, change, alpha=multiplier * self.scale)


def _rotations(blocks: torch.Tensor, most: float, like: torch.Tensor) -> torch.Tensor:
    """Return the rotations (I + Q)(I − Q)⁻¹ of skew-symmetric Q = B − Bᵀ, for (…, b, b).

    Cayley's transform. Where `most` is positive, the norm of all Q together is held below it.
    """
    found = _as(blocks, like)
    skew = found - found.mT
    if most > 0:
        norm = torch.linalg.vector_norm(skew)
        skew = skew * (most / norm.clamp_min(most))
    unit = torch.eye(skew.shape[-1], device=like.device, dtype=like.dtype)
    return torch.linalg.solve(unit - skew, unit + skew, left=False)


@dataclass(frozen=True, eq=False)
class Oft:
    """W' = W + m·(g·RW − W) with R block-diagonal of rotations, g one number a row.

    Qiu et al. 2023, arXiv:2306.07280; `blocks` (count, b, b) act as Rᵀ on b rows each, which is how
    kohya's and LyCORIS' files are meant. `constraint` is their alpha: the norm of Q per row.
    """

    blocks: torch.Tensor
    constraint: float = 0.0
    rescale: torch.Tensor | None = None

    def fits(self, shape: Shape) -> bool:
        """Tell whether the blocks cover the rows."""
        return self.blocks.shape[0] * self.blocks.shape[1] == shape[0]

    def apply(self, weight: torch.Tensor, multiplier: float) -> torch.Tensor:
        """Return the weight moved by `multiplier` of the way."""
        turn = _rotations(self.blocks, self.constraint * weight.shape[0], weight)
        rows = weight.reshape(*self.blocks.shape[:2], -1)
        turned = torch.einsum("knm,knc->kmc", turn, rows).reshape(weight.shape)
        if self.rescale is not None:
            sides = [-1, *[1] * (weight.ndim - 1)]
            turned = turned * _as(self.rescale, weight).reshape(sides)
        return torch.lerp(weight, turned, multiplier)


@dataclass(frozen=True, eq=False)
class Boft:
    """W' = g·Bₘ…B₁W: sparse rotations in butterfly order.

    Liu et al. 2023, arXiv:2311.06243, as LyCORIS stores it: `blocks` (stages, count, b, b). A
    multiplier moves every stage that share of the way from the identity.
    """

    blocks: torch.Tensor
    constraint: float = 0.0
    rescale: torch.Tensor | None = None

    def fits(self, shape: Shape) -> bool:
        """Tell whether the blocks cover the rows."""
        return self.blocks.shape[1] * self.blocks.shape[2] == shape[0]

    def apply(self, weight: torch.Tensor, multiplier: float) -> torch.Tensor:
        """Return the rotated weight."""
        turns = _rotations(self.blocks, self.constraint * weight.shape[0], weight)
        unit = torch.eye(turns.shape[-1], device=weight.device, dtype=weight.dtype)
        _, count, size, _ = self.blocks.shape
        rows = weight.reshape(weight.shape[0], -1)
        for stage, turn in enumerate(turns):
            # Stage i mixes rows that are 2^i·b/2 apart.
            half = 2**stage * (size // 2)
            mixed = rows.view(-1, 2, half, rows.shape[1]).transpose(1, 2)
            moved = torch.lerp(unit, turn, multiplier)
            mixed = torch.einsum("kij,kjc->kic", moved, mixed.reshape(count, size, -1))
            rows = mixed.reshape(-1, half, 2, rows.shape[1]).transpose(1, 2)
            rows = rows.reshape(weight.shape[0], -1)
        if self.rescale is not None:
            rows = rows * (1 + multiplier * (_as(self.rescale, weight).reshape(-1, 1) - 1))
        return rows.reshape(weight.shape)
