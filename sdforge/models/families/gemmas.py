"""Gemma 2 text encoders in files: transformers' names, alone or below a prefix."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Recipe
from sdforge.models.families.building import (
    RECIPES_KEPT,
    SKELETONS_KEPT,
    Config,
    plain_sources,
    skeleton_of,
)
from sdforge.models.families.sd_shapes import Shapes
from sdforge.models.layout import Layout

if TYPE_CHECKING:
    from sdforge.models.skeleton import Skeleton

_FIRST = "model.layers.0."
# Of Gemma 2 in its smaller sizes, which have nothing that tells it; narrower ones have one pair.
_HEAD = 256


def gemma_recipe(header: CheckpointHeader, prefix: str, *, role: str) -> Recipe:
    """Return how to make a Gemma 2 without its last layer from the tensors below `prefix`.

    Raises:
        MissingModel: some are missing.
        UnsupportedCheckpoint: their shapes do not fit together.
    """
    sources = plain_sources(header.layout, prefix)
    shapes = Shapes(header, {name: source.shape for name, source in sources.items()}, "Gemma 2")
    vocabulary, width = shapes.dims("model.embed_tokens.weight", 2)
    queries = shapes.dims(f"{_FIRST}self_attn.q_proj.weight", 2)[0]
    keys = shapes.dims(f"{_FIRST}self_attn.k_proj.weight", 2)[0]
    head = min(keys, _HEAD)
    if queries % head or keys % head or queries % keys:
        raise shapes.misfit(f"its widths {queries} and {keys} cannot be cut into heads of {head}")
    layers = shapes.count(lambda layer: f"model.layers.{layer}.input_layernorm.weight")
    config: Config = (
        ("vocabulary", vocabulary),
        ("width", width),
        ("hidden", shapes.dims(f"{_FIRST}mlp.gate_proj.weight", 2)[0]),
        ("layers", layers - 1),
        ("heads", queries // head),
        ("pairs", keys // head),
        ("head", head),
    )
    return _recipe(header.layout, prefix, role, config)


@lru_cache(maxsize=RECIPES_KEPT)
def _recipe(layout: Layout, prefix: str, role: str, config: Config) -> Recipe:
    return Recipe(
        role=role, layout=layout, skeleton=_skeleton(config), sources=plain_sources(layout, prefix)
    )


@lru_cache(maxsize=SKELETONS_KEPT)
def _skeleton(config: Config) -> Skeleton:
    from sdforge.models.gemma import GemmaText

    return skeleton_of(lambda: GemmaText(**dict(config)))
