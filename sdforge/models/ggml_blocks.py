"""What the blocks of GGUF files mean: packed numbers to weights, wherever the bytes lie.

A block holds 32 or 256 numbers: small integers, and one or several 16-bit scales for them. Results
equal those of the `gguf` package bit for bit (in 32 bits, rounded once to what is computed with).
Weights are unpacked some rows at a time, so that no copy in 32 bits of a whole one is ever made.
The structures are GGML's (ggml-common.h and its reference in `gguf/quants.py`, both MIT).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.formats.ggml_types import BLOCK_TYPES

# Numbers unpacked at once: enough for a device to be busy, little beside any weight that matters.
_PIECE_NUMBERS = 2**21
_NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class Unpack:
    """Bytes of blocks → the weight; a decoder as `memory.component.Component` takes them."""

    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def growth(self) -> float:
        """How many times the bytes of a weight grow, the piece that is under way included."""
        block = BLOCK_TYPES[self.kind]
        return self.dtype.itemsize * block.numbers / block.bytes + 1

    def __call__(self, stored: Tensor) -> Tensor:
        """Return the weight where its bytes lie."""
        target = torch.empty(self.shape, dtype=self.dtype, device=stored.device)
        unpack_into(self.kind, stored, target)
        return target


def unpack_into(kind: str, stored: Tensor, target: Tensor) -> None:
    """Unpack blocks of a type into `target`, converting to its type.

    Raises:
        UnsupportedCheckpoint: of a type that is only known by name.
    """
    unpack = _UNPACKERS.get(kind)
    if unpack is None:
        raise UnsupportedCheckpoint(
            f"GGUF numbers of type {kind} cannot be unpacked; known are {', '.join(_UNPACKERS)}"
        )
    block = BLOCK_TYPES[kind]
    blocks = stored.view(-1, block.bytes)
    flat = target.view(-1, block.numbers)
    step = max(_PIECE_NUMBERS // block.numbers, 1)
    for first in range(0, len(blocks), step):
        piece = blocks[first : first + step]
        flat[first : first + step].copy_(unpack(piece).view(len(piece), block.numbers))


def _half(part: Tensor) -> Tensor:
    """Two bytes per block → a 16-bit number as 32 bits. (blocks, 1)."""
    return part.contiguous().view(torch.float16).float()


def _bits(part: Tensor, shifts: tuple[int, ...], mask: int) -> Tensor:
    """(blocks, groups, width) bytes → (blocks, groups, shifts, width), each byte cut by shifts."""
    by = torch.tensor(shifts, dtype=torch.uint8, device=part.device)
    return (part[:, :, None, :] >> by[None, None, :, None]) & mask


def _nibbles(part: Tensor, width: int) -> Tensor:
    """Bytes → the low halves of `width` of them, then their high halves, and so on."""
    blocks = len(part)
    return _bits(part.reshape(blocks, -1, width), (0, 4), 15).reshape(blocks, -1)


def _signed(numbers: Tensor, less: int) -> Tensor:
    return (numbers.to(torch.int8) - less).float()


def _fifth_bits(part: Tensor) -> Tensor:
    """Four bytes → 32 bits, each already in its place above four others."""
    blocks = len(part)
    ones = _bits(part.reshape(blocks, 4, 1), tuple(range(8)), 1)
    return ones.reshape(blocks, 32) << 4


def _q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks[:, :2]) * _signed(_nibbles(blocks[:, 2:], 16), 8)


def _q4_1(blocks: Tensor) -> Tensor:
    scaled = _half(blocks[:, :2]) * _nibbles(blocks[:, 4:], 16).float()
    return scaled + _half(blocks[:, 2:4])


def _q5_0(blocks: Tensor) -> Tensor:
    numbers = _nibbles(blocks[:, 6:], 16) | _fifth_bits(blocks[:, 2:6])
    return _half(blocks[:, :2]) * _signed(numbers, 16)


def _q5_1(blocks: Tensor) -> Tensor:
    numbers = _nibbles(blocks[:, 8:], 16) | _fifth_bits(blocks[:, 4:8])
    return _half(blocks[:, :2]) * numbers.float() + _half(blocks[:, 2:4])


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].contiguous().view(torch.int8).float() * _half(blocks[:, :2])


def _q2_k(blocks: Tensor) -> Tensor:
    count = len(blocks)
    scales, packed = blocks[:, :16], blocks[:, 16:80].reshape(count, -1, 32)
    scale = (_half(blocks[:, 80:82]) * (scales & 15).float()).view(count, 16, 1)
    least = (_half(blocks[:, 82:84]) * (scales >> 4).float()).view(count, 16, 1)
    numbers = _bits(packed, (0, 2, 4, 6), 3).reshape(count, 16, 16).float()
    return scale * numbers - least


def _q3_k(blocks: Tensor) -> Tensor:
    count = len(blocks)
    low = _bits(blocks[:, 96:104].reshape(count, 1, 8), (0, 4), 15).reshape(count, 16)
    high = _bits(blocks[:, 104:108].reshape(count, 1, 4), (0, 2, 4, 6), 3).reshape(count, 16)
    scale = (_half(blocks[:, 108:110]) * _signed(low | (high << 4), 32)).view(count, 16, 1)
    packed = blocks[:, 32:96].reshape(count, -1, 32)
    numbers = _bits(packed, (0, 2, 4, 6), 3).reshape(count, 16, 16).to(torch.int8)
    third = _bits(blocks[:, :32].reshape(count, 1, 32), tuple(range(8)), 1)
    less = (third.reshape(count, 16, 16) ^ 1) << 2
    return scale * (numbers - less.to(torch.int8)).float()


def _scales_and_leasts(part: Tensor) -> tuple[Tensor, Tensor]:
    """Twelve bytes → eight scales and eight minima of six bits each."""
    first, second, mixed = part[:, :4], part[:, 4:8], part[:, 8:]
    scale = torch.cat([first & 63, (mixed & 15) | ((first >> 2) & 48)], dim=1)
    least = torch.cat([second & 63, (mixed >> 4) | ((second >> 2) & 48)], dim=1)
    return scale, least


def _q4_k(blocks: Tensor) -> Tensor:
    count = len(blocks)
    return _with_leasts(blocks, _nibbles(blocks[:, 16:], 32).view(count, 8, 32))


def _q5_k(blocks: Tensor) -> Tensor:
    count = len(blocks)
    low = _nibbles(blocks[:, 48:], 32).view(count, 8, 32)
    high = _bits(blocks[:, 16:48].reshape(count, 1, 32), tuple(range(8)), 1)
    return _with_leasts(blocks, low | (high.reshape(count, 8, 32) << 4))


def _with_leasts(blocks: Tensor, numbers: Tensor) -> Tensor:
    count = len(blocks)
    scales, leasts = _scales_and_leasts(blocks[:, 4:16])
    scale = (_half(blocks[:, :2]) * scales.float()).view(count, 8, 1)
    least = (_half(blocks[:, 2:4]) * leasts.float()).view(count, 8, 1)
    return scale * numbers.float() - least


def _q6_k(blocks: Tensor) -> Tensor:
    count = len(blocks)
    low = _nibbles(blocks[:, :128], 64).view(count, 8, 32)
    high = _bits(blocks[:, 128:192].reshape(count, -1, 32), (0, 2, 4, 6), 3)
    numbers = _signed(low | (high.reshape(count, 8, 32) << 4), 32).view(count, 16, 16)
    scales = blocks[:, 192:208].contiguous().view(torch.int8).float()
    return (_half(blocks[:, 208:]) * scales).view(count, 16, 1) * numbers


def _iq4_nl(blocks: Tensor) -> Tensor:
    return _half(blocks[:, :2]) * _looked_up(_nibbles(blocks[:, 2:], 16))


def _iq4_xs(blocks: Tensor) -> Tensor:
    count = len(blocks)
    high = _bits(blocks[:, 2:4].reshape(count, 2, 1), (0, 2, 4, 6), 3).reshape(count, 8)
    low = _bits(blocks[:, 4:8].reshape(count, 4, 1), (0, 4), 15).reshape(count, 8)
    scale = _half(blocks[:, :2]) * _signed(low | (high << 4), 32)
    return scale.view(count, 8, 1) * _looked_up(_nibbles(blocks[:, 8:], 16)).view(count, 8, 32)


def _looked_up(numbers: Tensor) -> Tensor:
    table = torch.tensor(_NONLINEAR, dtype=torch.float32, device=numbers.device)
    return table[numbers.long()]


_UNPACKERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "Q2_K": _q2_k,
    "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}  # fmt: skip
