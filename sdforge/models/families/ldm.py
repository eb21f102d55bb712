"""Networks of the latent-diffusion layout: U-Nets of every Stable Diffusion, and KL VAEs.

They are diffusers' model classes; key names come from its converters (see `models.key_map`).
Configurations are read off shapes in `sd_shapes`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Recipe
from sdforge.models.families.building import (
    RECIPES_KEPT,
    SKELETONS_KEPT,
    Config,
    frozen,
    quiet_libraries,
    skeleton_of,
)
from sdforge.models.families.sd_shapes import UNET, unet_config, vae_config, vae_names
from sdforge.models.layout import Layout

if TYPE_CHECKING:
    from sdforge.models.skeleton import Skeleton

STANDARD_VAE_WIDTH = 128
_DOWNSCALE = 8


def unet_recipe(header: CheckpointHeader) -> Recipe:
    """Return how to make the U-Net of a file; raises as `unet_config`."""
    return _unet_recipe(header.layout, frozen(unet_config(header)))


def vae_recipe(header: CheckpointHeader, *, latent_channels: int, family: str) -> Recipe:
    """Return how to make the VAE of a file, which may be the only network in it.

    Raises:
        MissingModel: the file lacks it, or some of it.
        UnsupportedCheckpoint: its latents have other channels than the family's, or are not an
            eighth as long and wide as pictures.
    """
    config = vae_config(header)
    if config["latent_channels"] != latent_channels:
        raise UnsupportedCheckpoint(
            f"the VAE in {header.path.name} has {config['latent_channels']} latent channels, "
            f"{family} has {latent_channels}"
        )
    # Each level but the last one halves the sides.
    downscale = 2 ** (len(config["block_out_channels"]) - 1)
    if downscale != _DOWNSCALE:
        raise UnsupportedCheckpoint(
            f"the VAE in {header.path.name} makes pictures {downscale} times as long and wide as "
            f"latents, {family} wants one that makes them {_DOWNSCALE} times"
        )
    return _vae_recipe(header.layout, frozen(config))


@lru_cache(maxsize=RECIPES_KEPT)
@quiet_libraries()
def _unet_recipe(layout: Layout, config: Config) -> Recipe:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    from sdforge.models.key_map import key_map

    names = {key: key for key in layout.under(UNET).values()}
    return Recipe(
        role="denoiser",
        layout=layout,
        skeleton=_unet_skeleton(config),
        sources=key_map(
            layout, names, lambda tensors: convert_ldm_unet_checkpoint(tensors, dict(config))
        ),
    )


@lru_cache(maxsize=RECIPES_KEPT)
@quiet_libraries()
def _vae_recipe(layout: Layout, config: Config) -> Recipe:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    from sdforge.models.key_map import key_map

    return Recipe(
        role="vae",
        layout=layout,
        skeleton=_vae_skeleton(config),
        sources=key_map(
            layout,
            vae_names(layout),
            lambda tensors: convert_ldm_vae_checkpoint(tensors, dict(config)),
        ),
    )


@lru_cache(maxsize=SKELETONS_KEPT)
def _unet_skeleton(config: Config) -> Skeleton:
    def make() -> Any:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        from sdforge.models.attention import use_direct_attention

        module = UNet2DConditionModel(**dict(config))
        use_direct_attention(module)
        return module

    return skeleton_of(make)


@lru_cache(maxsize=SKELETONS_KEPT)
def _vae_skeleton(config: Config) -> Skeleton:
    def make() -> Any:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        return AutoencoderKL(**dict(config))

    return skeleton_of(make)
