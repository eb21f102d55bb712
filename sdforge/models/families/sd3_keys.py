"""SD 3's tensors in the names of its authors (Stability AI) → those of diffusers' module.

Matrices that lie one below the other in a file are rows of it (docs/decisions/0080), so this is a
table of names and rows. diffusers' own converter computes, and so copies. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from sdforge.models.families.base import Source
from sdforge.models.layout import Layout

_WHOLE = {"pos_embed": "pos_embed.pos_embed"}
_ENDS = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
_INNER = {
    "x_block.adaLN_modulation.1": "norm1.linear",
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "x_block.attn.proj": "attn.to_out.0",
    "x_block.attn2.ln_q": "attn2.norm_q",
    "x_block.attn2.ln_k": "attn2.norm_k",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
    "context_block.attn.proj": "attn.to_add_out",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
}
# Matrices of three equal parts, in order.
_FUSED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_BLOCK = re.compile(r"joint_blocks\.(\d+)\.(.+)\.(weight|bias)")
_TARGET = re.compile(r"transformer_blocks\.(\d+)\.(.+)")


def sd3_sources(layout: Layout, prefix: str) -> dict[str, Source]:
    """Return parameter name → source for the tensors below `prefix`, in the authors' names."""
    found: dict[str, Source] = {}
    for name, key in layout.under(prefix).items():
        found.update(_sources(name, key, layout.tensors[key].shape))
    return found


def _sources(name: str, key: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Source]]:
    if name in _WHOLE:
        yield _WHOLE[name], Source(key, shape)
        return
    part, _, end = name.rpartition(".")
    if part in _ENDS:
        yield f"{_ENDS[part]}.{end}", Source(key, shape)
        return
    match = _BLOCK.fullmatch(name)
    if match is None:
        return
    number, inner, end = match.groups()
    block = f"transformer_blocks.{number}"
    if inner in _INNER:
        yield f"{block}.{_INNER[inner]}.{end}", Source(key, shape)
    for place, target in enumerate(_FUSED.get(inner, ())):
        rows = shape[0] // 3
        yield f"{block}.{target}.{end}", Source(key, (rows, *shape[1:]), place * rows)


def authors_sd3_names(layers: Iterable[str]) -> dict[str, str]:
    """Return the authors' name of each of diffusers' layers that is whole in their files."""
    ends = {target: name for name, target in _ENDS.items()}
    inner = {target: name for name, target in _INNER.items()}
    found = {}
    for layer in layers:
        match = _TARGET.fullmatch(layer)
        if match is None:
            if layer in ends:
                found[layer] = ends[layer]
        elif match[2] in inner:
            found[layer] = f"joint_blocks.{match[1]}.{inner[match[2]]}"
    return found


def fused_sd3_names(
    rows: Mapping[str, int],
) -> dict[str, list[tuple[str, tuple[int, int, int]]]]:
    """Return, by the authors' name of a fused matrix, its layers and which rows they are.

    Args:
        rows: of the weights of diffusers' layers.

    Returns:
        name → (layer, (first row, row behind the last, rows of the whole)).
    """
    found: dict[str, list[tuple[str, tuple[int, int, int]]]] = {}
    for number in dict.fromkeys(match[1] for match in map(_TARGET.fullmatch, rows) if match):
        for inner, targets in _FUSED.items():
            layers = [f"transformer_blocks.{number}.{target}" for target in targets]
            if not all(layer in rows for layer in layers):
                continue
            total, first = sum(rows[layer] for layer in layers), 0
            parts = found.setdefault(f"joint_blocks.{number}.{inner}", [])
            for layer in layers:
                parts.append((layer, (first, first + rows[layer], total)))
                first += rows[layer]
    return found
