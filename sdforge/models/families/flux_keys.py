"""Flux's tensors in the names of its authors (Black Forest Labs) → those of diffusers' modules.

One table is Flux.1's, one Flux.2's. Matrices that lie one below the other in a file are rows of it,
so this is about names and rows; nothing is computed. diffusers' own converter of Flux.1 knows one
width only. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sdforge.models.families.base import Source
from sdforge.models.layout import Layout


@dataclass(frozen=True, kw_only=True, eq=False)
class Names:
    """The authors' names → diffusers': outside of blocks, in double blocks and in single ones.

    `fused` are matrices that hold several: their parts, in order.
    """

    ends: Mapping[str, str]
    double: Mapping[str, str]
    single: Mapping[str, str]
    fused: Mapping[str, tuple[str, ...]]


_QKV = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_ENDS = {
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "txt_in": "context_embedder",
    "img_in": "x_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
_DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_SINGLE = {
    "modulation.lin": "norm.linear",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
    "linear2": "proj_out",
}
FLUX1 = Names(
    ends=_ENDS,
    double=_DOUBLE,
    single=_SINGLE,
    fused={**_QKV, "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")},
)
# Modulations are shared by all blocks, nothing has a bias, and a single block's first matrix is
# one in diffusers as well.
FLUX2 = Names(
    ends={
        **{
            name: target.replace("time_text_embed", "time_guidance_embed")
            for name, target in _ENDS.items()
            if not name.startswith("vector_in")
        },
        "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
        "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
        "single_stream_modulation.lin": "single_stream_modulation.linear",
    },
    double={
        name: target.replace("net.0.proj", "linear_in").replace("net.2", "linear_out")
        for name, target in _DOUBLE.items()
        if not name.endswith("mod.lin")
    },
    single={
        "linear1": "attn.to_qkv_mlp_proj",
        "linear2": "attn.to_out",
        "norm.query_norm": "attn.norm_q",
        "norm.key_norm": "attn.norm_k",
    },
    fused=_QKV,
)
# Chroma's modulations come from one network; the authors' names in it → diffusers'.
GUIDE = "distilled_guidance_layer."
GUIDE_LAYERS = {".in_layer": ".linear_1", ".out_layer": ".linear_2"}
_TARGET = re.compile(r"(single_)?transformer_blocks\.(\d+)\.(.+)")
_BLOCK = re.compile(r"(double|single)_blocks\.(\d+)\.(.+)\.(weight|bias|scale)")


def flux_sources(
    layout: Layout, prefix: str, width: int, names: Names = FLUX1
) -> dict[str, Source]:
    """Return parameter name → source for a file in the authors' names.

    Args:
        layout: of the file.
        prefix: before all names of the network.
        width: of its states, which says where fused matrices are cut.
        names: of Flux.1 or Flux.2.
    """
    found: dict[str, Source] = {}
    for name, key in layout.under(prefix).items():
        shape = layout.tensors[key].shape
        found.update(_sources(name, key, shape, width, names))
    return found


def _sources(
    name: str, key: str, shape: tuple[int, ...], width: int, names: Names
) -> Iterator[tuple[str, Source]]:
    part, _, end = name.rpartition(".")
    if part in names.ends:
        yield f"{names.ends[part]}.{end}", Source(key, shape)
        return
    match = _BLOCK.fullmatch(name)
    if match is None:
        return
    kind, number, inner, end = match.groups()
    block = f"{'single_' if kind == 'single' else ''}transformer_blocks.{number}"
    end = "weight" if end == "scale" else end
    inside = names.single if kind == "single" else names.double
    if inner in inside:
        yield f"{block}.{inside[inner]}.{end}", Source(key, shape)
        return
    first = 0
    whole = shape[0] if shape else 0
    for target in names.fused.get(inner, ()):
        rows = whole - first if target == "proj_mlp" else width
        if not 0 < rows <= whole - first:
            # Too few for its parts, which are missing then.
            return
        yield f"{block}.{target}.{end}", Source(key, (rows, *shape[1:]), first)
        first += rows


def authors_names(layers: Iterable[str], names: Names = FLUX1) -> dict[str, str]:
    """Return the authors' name of each of diffusers' layers that is whole in their files."""
    ends = {target: name for name, target in names.ends.items()}
    inner = {
        "": {target: name for name, target in names.double.items()},
        "single_": {target: name for name, target in names.single.items()},
    }
    found = {}
    for layer in layers:
        match = _TARGET.fullmatch(layer)
        if match is None:
            if layer in ends:
                found[layer] = ends[layer]
            continue
        single, number, rest = match.groups()
        kind = "single" if single else "double"
        if rest in inner[single or ""]:
            found[layer] = f"{kind}_blocks.{number}.{inner[single or ''][rest]}"
    return found


def fused_names(
    rows: Mapping[str, int], names: Names = FLUX1
) -> dict[str, list[tuple[str, tuple[int, int, int]]]]:
    """Return, by the authors' name of a fused matrix, its layers and which rows they are.

    Args:
        rows: of the weights of diffusers' layers.
        names: of Flux.1 or Flux.2.

    Returns:
        name → (layer, (first row, row behind the last, rows of the whole)).
    """
    found: dict[str, list[tuple[str, tuple[int, int, int]]]] = {}
    blocks = dict.fromkeys(
        (match[1] or "", match[2]) for match in map(_TARGET.fullmatch, rows) if match
    )
    for single, number in blocks:
        kind = "single" if single else "double"
        for inner, targets in names.fused.items():
            layers = [f"{single}transformer_blocks.{number}.{target}" for target in targets]
            if not all(layer in rows for layer in layers) or (inner == "linear1") != bool(single):
                continue
            total, first = sum(rows[layer] for layer in layers), 0
            parts = found.setdefault(f"{kind}_blocks.{number}.{inner}", [])
            for layer in layers:
                parts.append((layer, (first, first + rows[layer], total)))
                first += rows[layer]
    return found
