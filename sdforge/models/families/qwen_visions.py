"""The vision part of Qwen2.5-VL in files: transformers' names, or those of llama.cpp's mmproj."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Recipe, Source
from sdforge.models.families.building import RECIPES_KEPT, SKELETONS_KEPT, Config, skeleton_of
from sdforge.models.families.sd_shapes import Shapes
from sdforge.models.layout import Layout

if TYPE_CHECKING:
    from sdforge.models.skeleton import Skeleton

_GGUF_FIRST = "v.patch_embd.weight"
_FUSED = ".attn.qkv."
_PARTS = ("q", "k", "v")
# Nothing in a file tells the width of heads: this is that of all published ones; narrower networks
# have one that divides them.
_HEADS = (80, 16)
_GGUF_BLOCK = re.compile(r"v\.blk\.(\d+)\.(\w+)\.(weight|bias)")
_GGUF_PARTS = {
    "ln1": "norm1",
    "ln2": "norm2",
    "attn_q": "attn.q",
    "attn_k": "attn.k",
    "attn_v": "attn.v",
    "attn_out": "attn.proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GGUF_ENDS = {
    _GGUF_FIRST: "patch_embed.first.weight",
    f"{_GGUF_FIRST}.1": "patch_embed.second.weight",
    "v.post_ln.weight": "merger.ln_q.weight",
    "mm.0.weight": "merger.mlp.0.weight",
    "mm.0.bias": "merger.mlp.0.bias",
    "mm.2.weight": "merger.mlp.2.weight",
    "mm.2.bias": "merger.mlp.2.bias",
}


def vision_recipe(header: CheckpointHeader, prefix: str) -> Recipe:
    """Return how to make the vision part from the tensors below `prefix`.

    Raises:
        MissingModel: some are missing.
        UnsupportedCheckpoint: their shapes do not fit together.
    """
    sources = _sources(header.layout, prefix)
    shapes = Shapes(header, {name: one.shape for name, one in sources.items()}, "vision part")
    is_split = "patch_embed.first.weight" in shapes
    patches = "patch_embed.first.weight" if is_split else "patch_embed.proj.weight"
    width = shapes.dims(patches, 4 if is_split else 5)[0]
    head = next((head for head in _HEADS if width % head == 0), 0)
    if not head:
        raise shapes.misfit(f"its width {width} cannot be cut into heads")
    config: Config = (
        ("width", width),
        ("hidden", shapes.dims("blocks.0.mlp.gate_proj.weight", 2)[0]),
        ("layers", shapes.count(lambda number: f"blocks.{number}.norm1.weight")),
        ("head", head),
        ("out", shapes.dims("merger.mlp.2.weight", 2)[0]),
        ("is_split", is_split),
    )
    return Recipe(role="vision", layout=header.layout, skeleton=_skeleton(config), sources=sources)


@lru_cache(maxsize=SKELETONS_KEPT)
def _skeleton(config: Config) -> Skeleton:
    from sdforge.models.qwen_vision import QwenVision

    return skeleton_of(lambda: QwenVision(**dict(config)))


@lru_cache(maxsize=RECIPES_KEPT)
def _sources(layout: Layout, prefix: str) -> Mapping[str, Source]:
    names = layout.under(prefix)
    found = _of_gguf(layout) if _GGUF_FIRST in layout.tensors else _of_rows(layout, names)
    return dict(found)


def _of_rows(layout: Layout, names: Mapping[str, str]) -> Iterator[tuple[str, Source]]:
    """Yield the sources of a file where queries, keys and values are rows of one matrix."""
    for name, key in names.items():
        shape = layout.tensors[key].shape
        if _FUSED not in name:
            yield name, Source(key, shape)
            continue
        rows = shape[0] // len(_PARTS)
        for number, part in enumerate(_PARTS):
            own = name.replace(_FUSED, f".attn.{part}.")
            yield own, Source(key, (rows, *shape[1:]), first=number * rows)


def _of_gguf(layout: Layout) -> Iterator[tuple[str, Source]]:
    for key, info in layout.tensors.items():
        match = _GGUF_BLOCK.fullmatch(key)
        if match and match[2] in _GGUF_PARTS:
            yield f"blocks.{match[1]}.{_GGUF_PARTS[match[2]]}.{match[3]}", Source(key, info.shape)
        elif key in _GGUF_ENDS:
            yield _GGUF_ENDS[key], Source(key, info.shape)
