"""T5 encoders in files: transformers' names, alone or below a prefix."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Recipe, Source
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

_TABLE = "shared.weight"
# Some files hold the table under its second name only.
_TABLE_AGAIN = "encoder.embed_tokens.weight"
_FIRST = "encoder.block.0.layer."
_BIAS = f"{_FIRST}0.SelfAttention.relative_attention_bias.weight"


def t5_recipe(header: CheckpointHeader, prefix: str, *, role: str) -> Recipe:
    """Return how to make a T5 encoder from the tensors below `prefix`.

    Raises:
        MissingModel: some are missing.
        UnsupportedCheckpoint: their shapes do not fit together.
    """
    sources = _sources(header.layout, prefix)
    shapes = Shapes(header, {name: source.shape for name, source in sources.items()}, "T5")
    vocabulary, width = shapes.dims(_TABLE, 2)
    buckets, heads = shapes.dims(_BIAS, 2)
    inner = shapes.dims(f"{_FIRST}0.SelfAttention.q.weight", 2)[0]
    if inner % heads:
        raise shapes.misfit(f"its width {inner} cannot be cut into {heads} heads")
    config: Config = (
        ("vocabulary", vocabulary),
        ("width", width),
        ("inner", inner),
        ("hidden", shapes.dims(f"{_FIRST}1.DenseReluDense.wi_0.weight", 2)[0]),
        ("layers", shapes.count(lambda layer: f"encoder.block.{layer}.layer.0.layer_norm.weight")),
        ("heads", heads),
        ("buckets", buckets),
    )
    return _recipe(header.layout, prefix, role, config)


@lru_cache(maxsize=RECIPES_KEPT)
def _recipe(layout: Layout, prefix: str, role: str, config: Config) -> Recipe:
    return Recipe(
        role=role, layout=layout, skeleton=_skeleton(config), sources=_sources(layout, prefix)
    )


@lru_cache(maxsize=SKELETONS_KEPT)
def _skeleton(config: Config) -> Skeleton:
    from sdforge.models.t5 import T5Encoder

    return skeleton_of(lambda: T5Encoder(**dict(config)))


@lru_cache(maxsize=RECIPES_KEPT)
def _sources(layout: Layout, prefix: str) -> Mapping[str, Source]:
    found = dict(plain_sources(layout, prefix))
    again = found.pop(_TABLE_AGAIN, None)
    if again is not None:
        found.setdefault(_TABLE, again)
    return found
