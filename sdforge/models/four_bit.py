"""Unpacks bitsandbytes' NF4 and FP4 while a network is read: 4 bits become what is computed with.

A number is one of 16 of a table times the scale of its block; the first of two lies in a byte's
upper half. Dettmers et al. 2023, arXiv:2305.14314, for NF4 and for scales that are packed again.
The tables lie in the files. bitsandbytes is not needed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdforge.models.layout import FourBit, TensorInfo
from sdforge.models.quant import Pack, convert
from sdforge.models.weight_files import WeightFiles

_NUMBERS_AT_ONCE = 2**21


def read_four_bit(
    file: WeightFiles,
    whole: TensorInfo,
    first: int,
    target: Tensor,
    shape: tuple[int, ...],
    pack: Pack | None = None,
) -> None:
    """Read numbers of a 4-bit tensor into `target`.

    Args:
        file: that holds it.
        whole: the tensor, of type 'NF4' or 'FP4'.
        first: number to begin with, where `target` takes some of its rows only.
        target: takes the numbers, or what `pack` makes of them.
        shape: of the numbers that are wanted.
        pack: of the storage type, None where numbers are converted to the target's type.

    Raises:
        MissingModel, CorruptCheckpoint: the file is gone, or changed since its header was read.
    """
    four_bit = whole.four_bit
    if four_bit is None:
        raise ValueError(f"{whole.dtype} has no scales")
    scales, table = _scales(file, four_bit), _numbers(file, four_bit.table, torch.float32)
    count = math.prod(shape)
    numbers = torch.empty(count, dtype=torch.float32) if pack else target.view(-1)
    block, stop = four_bit.block, first + count
    step = max(_NUMBERS_AT_ONCE // block, 1) * block
    for start in range(first // block * block, stop, step):
        end = min(start + step, math.prod(whole.shape))
        packed = _bytes(file, whole._replace(start=whole.start + start // 2,
                                             end=whole.start + (end + 1) // 2))  # fmt: skip
        made = unpack_four_bit(packed, scales[start // block : -(-end // block)], table, block)
        low, high = max(start, first), min(end, stop)
        convert(made[low - start : high - start], numbers[low - first : high - first])
    if pack is not None:
        pack(numbers.view(shape), target)


def unpack_four_bit(packed: Tensor, scales: Tensor, table: Tensor, block: int) -> Tensor:
    """Return numbers in 32 bits; the last block may be short.

    Args:
        packed: bytes of two numbers each.
        scales: one for each block.
        table: what the 16 numbers mean.
        block: numbers that share a scale, even.
    """
    indexes = torch.stack((packed >> 4, packed & 15), dim=-1).view(-1).long()
    numbers = table[indexes]
    short = -numbers.numel() % block
    if short:
        numbers = torch.nn.functional.pad(numbers, (0, short))
    scaled = (numbers.view(-1, block) * scales[:, None]).view(-1)
    return scaled[: len(scaled) - short] if short else scaled


def _scales(file: WeightFiles, four_bit: FourBit) -> Tensor:
    if four_bit.nested_scales is None or four_bit.nested_table is None:
        return _numbers(file, four_bit.scales, torch.float32)
    table = _numbers(file, four_bit.nested_table, torch.float32)
    outer = _numbers(file, four_bit.nested_scales, torch.float32)
    indexes = _numbers(file, four_bit.scales, torch.uint8).long()
    spread = outer.repeat_interleave(four_bit.nested_block)[: len(indexes)]
    return table[indexes] * spread + four_bit.nested_offset


def _numbers(file: WeightFiles, info: TensorInfo, dtype: torch.dtype) -> Tensor:
    return _bytes(file, info).view(dtype)


def _bytes(file: WeightFiles, info: TensorInfo) -> Tensor:
    data = bytearray()
    file.copy(info, data.extend)
    return torch.frombuffer(data, dtype=torch.uint8)
