"""XLabs' names of Flux.1's layers in LoRA files, `double_blocks.0.processor.qkv_lora1.down.weight`.

They name what a block's processor adds to, not the layers: `1` is the picture's side, `2` the
text's. A single block's first matrix they know without the rows of its MLP. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Rows = tuple[int, int, int]
# What the authors call a layer inside of a block → what XLabs' processor calls it.
_PARTS = {
    "img_attn.qkv": "qkv_lora1",
    "txt_attn.qkv": "qkv_lora2",
    "img_attn.proj": "proj_lora1",
    "txt_attn.proj": "proj_lora2",
    # Less the ending of such a tensor's name.
    "linear1": "qkv",
    "linear2": "proj",
}
_BLOCK = re.compile(r"((?:double|single)_blocks\.\d+)\.(.+)")
# A layer's name and what the tensor is, where the name of the layer ends with a side.
SIDED = re.compile(r"(.+\.processor\.(?:qkv|proj)_lora[12])\.(up|down)\.weight")


def xlabs_name(name: str) -> str | None:
    """Return XLabs' name of a layer by the authors', None where it has none."""
    match = _BLOCK.fullmatch(name)
    part = match and _PARTS.get(match[2])
    return f"{match[1]}.{part}" if match and part else None


def xlabs_fused(
    fused: Mapping[str, Sequence[tuple[str, Rows]]],
) -> dict[str, list[tuple[str, Rows]]]:
    """Return, by XLabs' name of a fused matrix, its layers and rows; from those of the authors."""
    found = {}
    for name, parts in fused.items():
        other = xlabs_name(name)
        if other is None:
            continue
        held = [part for part in parts if not part[0].endswith(".proj_mlp")]
        total = held[-1][1][1]
        found[other] = [(layer, (start, stop, total)) for layer, (start, stop, _) in held]
    return found
