"""Tensors as bitsandbytes saves them in 4 bits, written with numpy from the published rules."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import torch

# QLoRA (arXiv:2305.14314), appendix E: the 16 numbers of NF4.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
# Sign, exponent and mantissa as bitsandbytes has them, divided by the largest.
_FP4_HALF = (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12)
FP4 = (*_FP4_HALF, *(-value for value in _FP4_HALF))
TABLES = {"nf4": NF4, "fp4": FP4}


@dataclass(frozen=True)
class Written:
    """What lies in the file, by name, and the weight that it means (fp32)."""

    tensors: dict[str, torch.Tensor]
    meant: torch.Tensor


def four_bit(
    name: str, weight: torch.Tensor, kind: str = "nf4", *, block: int = 64, nested: bool = False
) -> Written:
    """Pack a weight: the nearest of the 16 numbers times the largest of its block."""
    table = np.array(TABLES[kind], np.float32)
    flat = weight.float().numpy().reshape(-1)
    blocks = -(-flat.size // block)
    padded = np.zeros(blocks * block, np.float32)
    padded[: flat.size] = flat
    scales = np.abs(padded.reshape(blocks, block)).max(1)
    tensors: dict[str, torch.Tensor] = {}
    state = {"quant_type": kind, "blocksize": block, "dtype": "float32",
             "shape": list(weight.shape)}  # fmt: skip
    if nested:
        of_scales = np.linspace(-1, 1, 256, dtype=np.float32)
        offset = float(scales.mean())
        groups = -(-blocks // 256)
        spread = np.zeros(groups * 256, np.float32)
        spread[:blocks] = scales - np.float32(offset)
        outer = np.maximum(np.abs(spread.reshape(groups, 256)).max(1), np.float32(1e-12))
        ratio = spread[:blocks] / outer.repeat(256)[:blocks]
        indexes = np.abs(ratio[:, None] - of_scales[None]).argmin(1).astype(np.uint8)
        scales = of_scales[indexes] * outer.repeat(256)[:blocks] + np.float32(offset)
        tensors |= {
            f"{name}.absmax": torch.from_numpy(indexes),
            f"{name}.nested_absmax": torch.from_numpy(outer),
            f"{name}.nested_quant_map": torch.from_numpy(of_scales),
        }
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
    else:
        tensors[f"{name}.absmax"] = torch.from_numpy(scales.copy())
    share = padded / np.where(scales == 0, 1, scales).repeat(block)
    numbers = np.abs(share[:, None] - table[None]).argmin(1).astype(np.uint8)
    meant = (table[numbers].reshape(blocks, block) * scales[:, None]).reshape(-1)[: flat.size]
    numbers = numbers[: flat.size + flat.size % 2]
    packed = (numbers[::2] << 4) | numbers[1::2]
    text = json.dumps(state).encode()
    tensors |= {
        name: torch.from_numpy(packed[: math.ceil(flat.size / 2)].copy()).view(-1, 1),
        f"{name}.quant_map": torch.from_numpy(table),
        f"{name}.quant_state.bitsandbytes__{kind}": torch.tensor(list(text), dtype=torch.uint8),
    }
    return Written(tensors, torch.from_numpy(meant.copy()).view(weight.shape))
