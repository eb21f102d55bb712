"""Weights of 4 bits as bitsandbytes saves them (NF4, FP4), put back under their true shapes.

Beside a weight `X`, which is a row of bytes, lie `X.quant_state.bitsandbytes__nf4` (JSON: block
size, shape), `X.absmax` (a scale for each block), `X.quant_map` (what the 16 numbers mean), and
where the scales are packed as well `X.nested_absmax` and `X.nested_quant_map`. The layout of
`bitsandbytes.functional.QuantState.as_dict` (MIT). No torch; `models/four_bit.py` unpacks.
"""

from __future__ import annotations

import json
import math
from typing import Any, BinaryIO

from sdforge.models.layout import FourBit, Layout, TensorInfo

_STATE = ".quant_state.bitsandbytes__"
KINDS = {"nf4": "NF4", "fp4": "FP4"}
_BESIDE = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_MOST_STATE_BYTES = 64 * 1024
_MOST_DIMENSIONS, _MOST_NUMBERS = 8, 2**40
_BLOCKS = range(2, 65537, 2)


def has_four_bit(layout: Layout) -> bool:
    """Say whether any weight of a file is packed so."""
    return any(_STATE in name for name in layout.tensors)


def with_four_bit(file: BinaryIO, layout: Layout, data_start: int) -> Layout:
    """Return a layout with these weights as one tensor each, of type 'NF4' or 'FP4'.

    Reads the few hundred bytes that describe each.

    Raises:
        ValueError: what describes a weight is no good; says why, as an end of a sentence.
    """
    tensors = dict(layout.tensors)
    for name, info in layout.tensors.items():
        lead, mark, kind = name.partition(_STATE)
        if not mark:
            continue
        if kind not in KINDS:
            raise ValueError(f"is packed by bitsandbytes as {kind[:20]!r}, which is not known here")
        del tensors[name]
        state = _state(file, name, info, data_start)
        beside = {part: tensors.pop(f"{lead}.{part}", None) for part in _BESIDE}
        packed = tensors.get(lead)
        if packed is None:
            raise ValueError(f"is damaged: {name[:200]!r} describes a weight that is not there")
        shape = _shape(name, state)
        four_bit = _four_bit(name, state, beside, math.prod(shape))
        if packed.dtype != "U8" or packed.size_bytes != -(-math.prod(shape) // 2):
            raise ValueError(f"is damaged: {lead[:200]!r} does not hold the 4 bits of {shape}")
        tensors[lead] = TensorInfo(KINDS[kind], shape, packed.start, packed.end, four_bit)
    return Layout(tensors)


def _state(file: BinaryIO, name: str, info: TensorInfo, data_start: int) -> dict[str, Any]:
    if info.size_bytes > _MOST_STATE_BYTES:
        raise ValueError(f"is damaged: {name[:200]!r} takes {info.size_bytes} bytes")
    file.seek(data_start + info.start)
    try:
        state = json.loads(file.read(info.size_bytes))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is damaged: {name[:200]!r} is not JSON") from error
    if not isinstance(state, dict):
        raise ValueError(f"is damaged: {name[:200]!r} is no JSON object")
    return state


def _shape(name: str, state: dict[str, Any]) -> tuple[int, ...]:
    shape: Any = state.get("shape")
    is_sound = isinstance(shape, list) and 0 < len(shape) <= _MOST_DIMENSIONS
    is_sound = is_sound and all(type(side) is int and side > 0 for side in shape)
    if not is_sound or math.prod(shape) > _MOST_NUMBERS:
        raise ValueError(f"is damaged: {name[:200]!r} has no valid shape")
    return tuple(shape)


def _four_bit(
    name: str, state: dict[str, Any], beside: dict[str, TensorInfo | None], count: int
) -> FourBit:
    block, nested_block = state.get("blocksize"), state.get("nested_blocksize", 0)
    scales, table = beside["absmax"], beside["quant_map"]
    nested, nested_table = beside["nested_absmax"], beside["nested_quant_map"]
    if type(block) is not int or block not in _BLOCKS or scales is None or table is None:
        raise ValueError(f"is damaged: {name[:200]!r} lacks its block size, scales or table")
    blocks = -(-count // block)
    is_sound = _holds(table, "F32", 16)
    if nested is None:
        is_sound = is_sound and _holds(scales, "F32", blocks)
    else:
        is_sound = is_sound and type(nested_block) is int and nested_block > 0
        is_sound = is_sound and _holds(scales, "U8", blocks) and _holds(nested_table, "F32", 256)
        is_sound = is_sound and _holds(nested, "F32", -(-blocks // max(nested_block, 1)))
    offset = state.get("nested_offset", 0.0)
    if not is_sound or not isinstance(offset, (int, float)) or not math.isfinite(offset):
        raise ValueError(f"is damaged: the scales beside {name[:200]!r} do not fit its weight")
    return FourBit(block, scales, table, nested_block, nested, nested_table, float(offset))


def _holds(info: TensorInfo | None, dtype: str, count: int) -> bool:
    return info is not None and info.dtype == dtype and math.prod(info.shape) == count
