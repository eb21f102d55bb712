"""The VAE of Flux.2 in files: that of latent diffusion, with statistics of patches beside it.

Its authors keep the two small convolutions around the latents inside the halves. One with a smaller
decoder is published as well, so the halves have widths of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Recipe, Source
from sdforge.models.families.building import (
    RECIPES_KEPT,
    SKELETONS_KEPT,
    Config,
    frozen,
    quiet_libraries,
    skeleton_of,
)
from sdforge.models.families.sd_shapes import Shapes, vae_config, vae_names
from sdforge.models.layout import Layout

if TYPE_CHECKING:
    from sdforge.models.skeleton import Skeleton

CHANNELS, DOWNSCALE = 32, 8
_PATCH = 2
_STATISTICS = ("bn.running_mean", "bn.running_var")
_INSIDE = ("encoder.quant_conv.", "decoder.post_quant_conv.")


def flux2_vae_recipe(header: CheckpointHeader) -> Recipe:
    """Return how to make the VAE of a file, which may be the only network in it.

    Raises:
        MissingModel: the file lacks it, or some of it.
        UnsupportedCheckpoint: it is one of another kind.
    """
    names = _names(header.layout)
    shapes = Shapes(header, {name: header.tensors[key].shape for name, key in names.items()}, "VAE")
    config = vae_config(header)
    levels = len(config["block_out_channels"])
    channels, places = config["latent_channels"], shapes.dims(_STATISTICS[0], 1)[0]
    if channels * _PATCH**2 != places or 2 ** (levels - 1) != DOWNSCALE:
        raise UnsupportedCheckpoint(
            f"the VAE in {header.path.name} has {channels} latent channels on {levels} levels and "
            f"statistics of {places}; that of Flux.2 has {CHANNELS} on 4, and {4 * CHANNELS}"
        )
    config |= {
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "decoder_block_out_channels": tuple(
            shapes.dims(f"decoder.up.{level}.block.0.conv1.weight", 4)[0] for level in range(levels)
        ),
    }
    return _recipe(header.layout, frozen(config))


def _names(layout: Layout) -> Mapping[str, str]:
    """Return own name → name in the file, with the small convolutions outside of the halves."""
    return {
        name.partition(".")[2] if name.startswith(_INSIDE) else name: key
        for name, key in vae_names(layout).items()
    }


@lru_cache(maxsize=RECIPES_KEPT)
@quiet_libraries()
def _recipe(layout: Layout, config: Config) -> Recipe:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    from sdforge.models.key_map import key_map

    names = _names(layout)
    found = key_map(
        layout,
        {name: key for name, key in names.items() if not name.startswith("bn.")},
        lambda tensors: convert_ldm_vae_checkpoint(tensors, dict(config)),
    )
    found |= {
        name: Source(names[name], layout.tensors[names[name]].shape)
        for name in _STATISTICS
        if name in names
    }
    return Recipe(role="vae", layout=layout, skeleton=_skeleton(config), sources=found)


@lru_cache(maxsize=SKELETONS_KEPT)
def _skeleton(config: Config) -> Skeleton:
    def make() -> Any:
        import torch
        from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
        from torch import nn

        module = AutoencoderKLFlux2(**dict(config))
        # As much of the normalisation as a file tells; `flux2_vae.PatchedVae` does it.
        module.bn = nn.Module()
        for name in _STATISTICS:
            places = torch.empty(dict(config)["latent_channels"] * _PATCH**2)
            module.bn.register_buffer(name.partition(".")[2], places)
        return module

    return skeleton_of(make)
