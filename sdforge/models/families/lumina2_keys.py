"""Lumina 2's tensors in the names of its authors → those of diffusers' module, and back for LoRAs.

Query, key and value are rows of one matrix; nothing is computed. diffusers' own converter knows one
width only. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from sdforge.models.families.base import Source
from sdforge.models.layout import Layout

# In the authors' files, and nothing runs it.
_UNUSED = "norm_final.weight"
# Parts of the authors' names → diffusers', in order.
_PLACES = (
    (r"^final_layer\.adaLN_modulation\.1\.", "norm_out.linear_1."),
    (r"^final_layer\.linear\.", "norm_out.linear_2."),
    (r"^cap_embedder\.", "time_caption_embed.caption_embedder."),
    (r"^t_embedder\.mlp\.0\.", "time_caption_embed.timestep_embedder.linear_1."),
    (r"^t_embedder\.mlp\.2\.", "time_caption_embed.timestep_embedder.linear_2."),
    (r"^(context_refiner\.\d+)\.attention_norm1\.", r"\1.norm1."),
    (r"\.attention_norm1\.", ".norm1.norm."),
    (r"\.attention_norm2\.", ".norm2."),
    (r"\.adaLN_modulation\.1\.", ".norm1.linear."),
    (r"\.attention\.out\.", ".attn.to_out.0."),
    (r"\.attention\.q_norm\.", ".attn.norm_q."),
    (r"\.attention\.k_norm\.", ".attn.norm_k."),
    (r"\.feed_forward\.w(\d)\.", r".feed_forward.linear_\1."),
)
_FUSED = ".attention.qkv."
_PARTS = ("to_q", "to_k", "to_v")
# diffusers' layers of a block → the authors', of those that LoRAs change.
_LAYERS = {
    "attn.to_out.0": "attention.out",
    "norm1.linear": "adaLN_modulation.1",
    "feed_forward.linear_1": "feed_forward.w1",
    "feed_forward.linear_2": "feed_forward.w2",
    "feed_forward.linear_3": "feed_forward.w3",
}
_BLOCK_NORMS = {
    "norm1.norm": "attention_norm1",
    "norm2": "attention_norm2",
    "attn.norm_q": "attention.q_norm",
    "attn.norm_k": "attention.k_norm",
}
# The same outside of blocks: beginnings.
_ENDS = {
    "norm_out.linear_1": "final_layer.adaLN_modulation.1",
    "norm_out.linear_2": "final_layer.linear",
    "time_caption_embed.caption_embedder": "cap_embedder",
    "time_caption_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_caption_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
}
_CONTEXT_NORM = re.compile(r"(context_refiner\.\d+)\.norm1")
_BLOCK = re.compile(r"((?:layers|noise_refiner|context_refiner)\.\d+)\.(.+)")


def lumina2_sources(layout: Layout, prefix: str, width: int) -> dict[str, Source]:
    """Return parameter name → source for a file in the authors' names.

    Args:
        layout: of the file.
        prefix: before all names of the network.
        width: of its states; as many rows of a fused matrix are queries, the rest keys and values.
    """
    found: dict[str, Source] = {}
    for name, key in layout.under(prefix).items():
        shape = layout.tensors[key].shape
        if name == _UNUSED:
            continue
        if _FUSED in name:
            found.update(_cut(name, key, shape, width))
            continue
        for pattern, target in _PLACES:
            name = re.sub(pattern, target, name)
        found[name] = Source(key, shape)
    return found


def _cut(name: str, key: str, shape: tuple[int, ...], width: int) -> Iterator[tuple[str, Source]]:
    first, keys = 0, (shape[0] - width) // 2
    for part, rows in zip(_PARTS, (width, keys, keys), strict=True):
        yield name.replace(_FUSED, f".attn.{part}."), Source(key, (rows, *shape[1:]), first)
        first += rows


def authors_lumina2_names(layers: Iterable[str]) -> dict[str, str]:
    """Return the authors' name of each of diffusers' layers that is whole in their files."""
    found = {}
    inner = _LAYERS | _BLOCK_NORMS
    for layer in layers:
        match = _BLOCK.fullmatch(layer)
        if match is not None and match[2] in inner:
            found[layer] = f"{match[1]}.{inner[match[2]]}"
        elif bare := _CONTEXT_NORM.fullmatch(layer):
            found[layer] = f"{bare[1]}.attention_norm1"
        else:
            start = next((one for one in _ENDS if f"{layer}.".startswith(f"{one}.")), None)
            if start is not None:
                found[layer] = _ENDS[start] + layer.removeprefix(start)
    return found


def fused_lumina2_names(
    rows: Mapping[str, int],
) -> dict[str, list[tuple[str, tuple[int, int, int]]]]:
    """Return the same as `flux_keys.fused_names`, for Lumina 2."""
    found: dict[str, list[tuple[str, tuple[int, int, int]]]] = {}
    blocks = dict.fromkeys(match[1] for match in map(_BLOCK.fullmatch, rows) if match)
    for block in blocks:
        layers = [f"{block}.attn.{part}" for part in _PARTS]
        if not all(layer in rows for layer in layers):
            continue
        total, first = sum(rows[layer] for layer in layers), 0
        parts = found.setdefault(f"{block}.attention.qkv", [])
        for layer in layers:
            parts.append((layer, (first, first + rows[layer], total)))
            first += rows[layer]
    return found
