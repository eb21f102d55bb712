"""The VAE of Wan and Qwen-Image in files: its authors' names, or diffusers'.

Its sizes are read off shapes; the mean and deviation of each latent channel are in no file, they
are those that diffusers has written down for Qwen-Image.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Recipe, Source
from sdforge.models.families.building import (
    RECIPES_KEPT,
    SKELETONS_KEPT,
    Config,
    plain_sources,
    quiet_libraries,
    skeleton_of,
)
from sdforge.models.families.sd_shapes import Shapes
from sdforge.models.layout import Layout

if TYPE_CHECKING:
    from sdforge.models.skeleton import Skeleton

_AUTHORS = "decoder.conv1.weight"


def video_vae_recipe(header: CheckpointHeader, prefix: str) -> Recipe:
    """Return how to make the VAE from the tensors below `prefix`.

    Raises:
        MissingModel: some are missing.
        UnsupportedCheckpoint: their shapes do not fit together.
    """
    sources = _sources(header.layout, prefix)
    shapes = Shapes(header, {name: source.shape for name, source in sources.items()}, "VAE")
    width = shapes.dims("encoder.conv_in.weight", 5)[0]
    top, channels, *_ = shapes.dims("decoder.conv_in.weight", 5)
    if channels != 16 or top % width:
        raise shapes.misfit(f"it has {channels} latent channels and widths {width} to {top}")
    config: Config = (("base_dim", width), ("z_dim", channels))
    return _recipe(header.layout, prefix, config)


@lru_cache(maxsize=RECIPES_KEPT)
def _recipe(layout: Layout, prefix: str, config: Config) -> Recipe:
    return Recipe(
        role="vae", layout=layout, skeleton=_skeleton(config), sources=_sources(layout, prefix)
    )


@lru_cache(maxsize=SKELETONS_KEPT)
def _skeleton(config: Config) -> Skeleton:
    def make() -> Any:
        from sdforge.models.still_vae import StillVae

        return StillVae(**dict(config))

    return skeleton_of(make)


@lru_cache(maxsize=RECIPES_KEPT)
@quiet_libraries()
def _sources(layout: Layout, prefix: str) -> Mapping[str, Source]:
    names = layout.under(prefix)
    if _AUTHORS not in names:
        return plain_sources(layout, prefix)
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    from sdforge.models.key_map import key_map

    return dict(key_map(layout, names, convert_wan_vae_to_diffusers))
