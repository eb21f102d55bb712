"""CLIP text encoders in files: as transformers names them, and as OpenCLIP does.

Both become `models.clip.ClipTextModel`. OpenCLIP keeps query, key and value in one matrix, whose
rows are three layers of ours, and its projection the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Recipe, Source
from sdforge.models.families.building import RECIPES_KEPT, SKELETONS_KEPT, Config, skeleton_of
from sdforge.models.families.sd_shapes import CLIP_HEAD_WIDTH, Shapes
from sdforge.models.layout import Layout

if TYPE_CHECKING:
    from sdforge.models.skeleton import Skeleton

QUICK_GELU, GELU = "quick_gelu", "gelu"
_OPEN_TABLE = "token_embedding.weight"
_TABLE = "embeddings.token_embedding.weight"
_PROJECTION = "text_projection.weight"
_OPEN_PARTS = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OPEN_ENDS = {
    _OPEN_TABLE: _TABLE,
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
    "text_projection": _PROJECTION,
}


def clip_width(header: CheckpointHeader, *prefixes: str) -> int | None:
    """Return the width of the text encoder below the first prefix that has one, else None."""
    for prefix in prefixes:
        for table in (f"{prefix}text_model.{_TABLE}", prefix + _TABLE, prefix + _OPEN_TABLE):
            shape = header.shape(table)
            if shape is not None and len(shape) == 2:
                return shape[1]
    return None


def clip_recipe(
    header: CheckpointHeader, *prefixes: str, role: str, activation: str, projects: bool = False
) -> Recipe:
    """Return how to make a CLIP text encoder.

    Args:
        header: of the file.
        prefixes: below the first one that has a text encoder it is looked for.
        role: of the component.
        activation: `QUICK_GELU` for OpenAI's weights, `GELU` for OpenCLIP's.
        projects: whether the pooled text passes a projection.

    Raises:
        MissingModel: the file lacks it, or some of it.
        UnsupportedCheckpoint: its shapes do not fit together.
    """
    prefix = next((one for one in prefixes if clip_width(header, one)), prefixes[0])
    is_open = (prefix + _OPEN_TABLE) in header.tensors
    names = _open_names(header.layout, prefix) if is_open else _names(header.layout, prefix)
    shapes = Shapes(header, {name: source.shape for name, source in names.items()}, "text encoder")
    vocabulary, hidden = shapes.dims(_TABLE, 2)
    heads = max(1, hidden // CLIP_HEAD_WIDTH)
    if hidden % heads:
        raise shapes.misfit(f"its width {hidden} cannot be cut into {heads} heads")
    layers = shapes.count(lambda layer: f"encoder.layers.{layer}.layer_norm1.weight")
    projection = shapes.dims(_PROJECTION, 2) if projects else ()
    config: Config = (
        ("vocab_size", vocabulary),
        ("hidden_size", hidden),
        ("intermediate_size", shapes.dims("encoder.layers.0.mlp.fc1.weight", 2)[0]),
        ("num_hidden_layers", layers),
        ("num_attention_heads", heads),
        ("max_position_embeddings", shapes.dims("embeddings.position_embedding.weight", 2)[0]),
        ("activation", activation),
        ("projection", projection),
        ("is_projection_turned", is_open),
    )
    return _recipe(header.layout, prefix, role, is_open, config)


@lru_cache(maxsize=RECIPES_KEPT)
def _recipe(layout: Layout, prefix: str, role: str, is_open: bool, config: Config) -> Recipe:
    sources = _open_names(layout, prefix) if is_open else _names(layout, prefix)
    return Recipe(role=role, layout=layout, skeleton=_skeleton(config), sources=sources)


@lru_cache(maxsize=SKELETONS_KEPT)
def _skeleton(config: Config) -> Skeleton:
    from sdforge.models.clip import ClipTextModel

    return skeleton_of(lambda: ClipTextModel(**dict(config)))


@lru_cache(maxsize=RECIPES_KEPT)
def _names(layout: Layout, prefix: str) -> Mapping[str, Source]:
    """Return sources by names without `text_model.`, for files that use transformers' names."""
    return {
        name.removeprefix("text_model."): Source(key, layout.tensors[key].shape)
        for name, key in layout.under(prefix).items()
        if not name.endswith("position_ids")
    }


@lru_cache(maxsize=RECIPES_KEPT)
def _open_names(layout: Layout, prefix: str) -> Mapping[str, Source]:
    """Return sources by transformers' names, for files that use OpenCLIP's."""
    found: dict[str, Source] = {}
    for name, key in layout.under(prefix).items():
        shape = layout.tensors[key].shape
        if name in _OPEN_ENDS:
            found[_OPEN_ENDS[name]] = Source(key, shape)
        elif name.startswith("transformer.resblocks."):
            number, _, rest = name.removeprefix("transformer.resblocks.").partition(".")
            layer = f"encoder.layers.{number}"
            part, _, end = rest.rpartition(".")
            if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
                rows = shape[0] // 3
                for place, own in enumerate(("q_proj", "k_proj", "v_proj")):
                    target = f"{layer}.self_attn.{own}.{rest.rpartition('_')[2]}"
                    found[target] = Source(key, (rows, *shape[1:]), place * rows)
            elif part in _OPEN_PARTS:
                found[f"{layer}.{_OPEN_PARTS[part]}.{end}"] = Source(key, shape)
    return found
