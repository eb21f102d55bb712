"""Qwen text encoders (2.5 and 3) and Mistral's in files: transformers' names, below any prefix."""

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
# Of the rotations and the norms; Mistral's are those of Mistral Small 3.
_QWEN = (("base", 1_000_000.0), ("epsilon", 1e-6))
_MISTRAL = (("base", 1_000_000_000.0), ("epsilon", 1e-5))
# Of all published Qwen2.5 and Mistral Small, which have nothing that tells it; narrower ones have
# one pair.
_HEAD = 128
# What llama.cpp calls Mistral in GGUF files, where rows of queries and keys have another order.
_IN_TURNS = ("llama", "mistral3")


def qwen_recipe(
    header: CheckpointHeader,
    prefix: str,
    *,
    role: str,
    is_whole: bool = False,
    taps: tuple[int, ...] = (),
) -> Recipe:
    """Return how to make a Qwen or Mistral from the tensors below `prefix`.

    Args:
        header: of the file.
        prefix: before all names of the network.
        role: of the component.
        is_whole: with its last layer and norm.
        taps: numbers of layers after which states are taken, instead of those in the end.

    Raises:
        MissingModel: some are missing.
        UnsupportedCheckpoint: their shapes do not fit together.
    """
    sources = plain_sources(header.layout, prefix)
    shapes = Shapes(
        header, {name: source.shape for name, source in sources.items()}, "text encoder"
    )
    vocabulary, width = shapes.dims("model.embed_tokens.weight", 2)
    queries = shapes.dims(f"{_FIRST}self_attn.q_proj.weight", 2)[0]
    keys = shapes.dims(f"{_FIRST}self_attn.k_proj.weight", 2)[0]
    is_biased = f"{_FIRST}self_attn.q_proj.bias" in shapes
    normed = f"{_FIRST}self_attn.q_norm.weight"
    is_normed = normed in shapes
    head = shapes.dims(normed, 1)[0] if is_normed else min(keys, _HEAD)
    if queries % head or keys % head or queries % keys:
        raise shapes.misfit(f"its widths {queries} and {keys} cannot be cut into heads of {head}")
    layers = shapes.count(lambda layer: f"model.layers.{layer}.input_layernorm.weight")
    if taps and layers < max(taps):
        raise shapes.misfit(f"it has {layers} layers, and {max(taps)} are wanted of it")
    config: Config = (
        ("vocabulary", vocabulary),
        ("width", width),
        ("hidden", shapes.dims(f"{_FIRST}mlp.gate_proj.weight", 2)[0]),
        ("layers", max(taps, default=layers if is_whole else layers - 1)),
        ("heads", queries // head),
        ("pairs", keys // head),
        ("head", head),
        *(_QWEN if is_normed or is_biased else _MISTRAL),
        ("is_normed", is_normed),
        ("is_biased", is_biased),
        ("in_turns", header.metadata.get("general.architecture") in _IN_TURNS),
        ("is_whole", is_whole),
        ("taps", taps),
    )
    return _recipe(header.layout, prefix, role, config)


@lru_cache(maxsize=RECIPES_KEPT)
def _recipe(layout: Layout, prefix: str, role: str, config: Config) -> Recipe:
    return Recipe(
        role=role, layout=layout, skeleton=_skeleton(config), sources=plain_sources(layout, prefix)
    )


@lru_cache(maxsize=SKELETONS_KEPT)
def _skeleton(config: Config) -> Skeleton:
    from sdforge.models.qwen import QwenText

    return skeleton_of(lambda: QwenText(**dict(config)))
