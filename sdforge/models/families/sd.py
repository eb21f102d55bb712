"""Stable Diffusion 1.x: a U-Net in the layout of SD 1.5 at any width, CLIP, and a KL VAE.

Recognition reads shapes only. The networks are diffusers' and transformers' model classes; their
key names come from diffusers' converters (see `models.key_map`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Match, Recipe, Source
from sdforge.models.families.sd_shapes import (
    UNET,
    clip_config,
    context_width,
    text_names,
    unet_config,
    vae_config,
    vae_names,
)
from sdforge.models.layout import Layout

if TYPE_CHECKING:
    from sdforge.memory.component import Component
    from sdforge.memory.manager import MemoryManager
    from sdforge.models.bundle import Parts
    from sdforge.models.skeleton import Skeleton

# Arguments of a network, as a key.
Config = tuple[tuple[str, Any], ...]

LATENT_CHANNELS = 4
LATENT_DOWNSCALE = 8
LATENT_SCALE = 0.18215
STANDARD_VAE_WIDTH = 128
# Files of the same layout share recipes, networks of the same arguments share a skeleton (some 4 MB
# for a U-Net). More are built anew.
_RECIPES_KEPT, _SKELETONS_KEPT = 8, 4
_VARIANTS = {4: "standard", 8: "instruct-pix2pix", 9: "inpainting"}
_V_WORDS = frozenset({"v", "v_prediction", "v-prediction"})


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Hold back advice that diffusers, and transformers below it, log while a model is built."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class StableDiffusion1:
    """The family of SD 1.4, 1.5 and their fine-tunes."""

    name = "sd1"
    label = "Stable Diffusion 1.x"
    roles = ("text_encoder", "denoiser", "vae")

    def match(self, header: CheckpointHeader) -> Match | None:
        """Return why the file is an SD 1.x checkpoint, or None when it is not."""
        first = header.shape(f"{UNET}input_blocks.0.0.weight")
        projection = header.shape(f"{UNET}input_blocks.1.1.proj_in.weight")
        if first is None or projection is None or len(first) != 4 or len(projection) != 4:
            return None
        if header.has_prefix(f"{UNET}label_emb.") or header.has_prefix("conditioner."):
            return None
        if header.has_prefix("cond_stage_model.model."):
            return None
        width, channels = first[:2]
        variant = _VARIANTS.get(channels, f"{channels}-channel")
        return Match(
            family=self.name,
            variant=variant,
            prediction=_prediction(header),
            reason=(
                f"Stable Diffusion 1.x layout: U-Net of width {width} with {channels} input "
                "channels and convolutional attention projections, text states of width "
                f"{context_width(header)}; {_text_reason(header)}; {_prediction(header)}-prediction"
            ),
            problem=_problem(header, variant),
        )

    def recipe(self, role: str, header: CheckpointHeader) -> Recipe:
        """Return how to make the U-Net, the text encoder or the VAE from a file.

        Raises:
            MissingModel: the file lacks this part, or some of it.
            UnsupportedCheckpoint: its shapes do not fit together.
        """
        makers = {"denoiser": _denoiser, "text_encoder": _text_encoder, "vae": _vae}
        recipe = makers[role](header)
        _check_complete(recipe, header)
        return recipe

    def assemble(
        self, match: Match, components: Mapping[str, Component], memory: MemoryManager
    ) -> Parts:
        """Return encoder, denoiser and VAE over the loaded networks."""
        from sdforge.models.bundle import LatentFormat, Parts
        from sdforge.models.denoiser import DenoiserModel, scaled_linear_sigmas
        from sdforge.models.preview import SD1_PREVIEW, fit_preview
        from sdforge.models.text_encoder import TextEncoder
        from sdforge.models.tokenizers import clip_tokenizer
        from sdforge.models.vae import Vae

        plain = LatentFormat(
            channels=LATENT_CHANNELS, downscale=LATENT_DOWNSCALE, scale=LATENT_SCALE
        )
        vae = Vae(components["vae"], memory, plain)
        is_standard = vae.width == STANDARD_VAE_WIDTH
        preview = SD1_PREVIEW if is_standard else fit_preview(vae)
        return Parts(
            latent_format=plain.with_preview(*preview),
            text=TextEncoder(components["text_encoder"], memory, clip_tokenizer()),
            vae=vae,
            denoiser=DenoiserModel(
                components["denoiser"], scaled_linear_sigmas(), prediction=match.prediction
            ),
        )


def _prediction(header: CheckpointHeader) -> str:
    said = header.metadata.get("modelspec.prediction_type", "").strip().casefold()
    return "v" if said in _V_WORDS or "v_pred" in header.tensors else "epsilon"


def _text_reason(header: CheckpointHeader) -> str:
    width = _text_width(header)
    if width is None:
        return "no text encoder"
    names = text_names(header.layout)
    layers = {name.split(".")[2] for name in names if name.startswith("encoder.layers.")}
    return f"CLIP text encoder of width {width} with {len(layers)} layers"


def _text_width(header: CheckpointHeader) -> int | None:
    table = text_names(header.layout).get("embeddings.token_embedding.weight")
    shape = header.tensors[table].shape if table else ()
    return shape[1] if len(shape) == 2 else None


def _problem(header: CheckpointHeader, variant: str) -> str | None:
    if variant != "standard":
        return f"{variant} checkpoints are recognised but not supported in this version"
    context, width = context_width(header), _text_width(header)
    if width is not None and width != context:
        return f"its U-Net wants text states of width {context}, its text encoder has {width}"
    return None


def _denoiser(header: CheckpointHeader) -> Recipe:
    return _unet_recipe(header.layout, _frozen(unet_config(header)))


def _vae(header: CheckpointHeader) -> Recipe:
    config = vae_config(header)
    if config["latent_channels"] != LATENT_CHANNELS:
        raise UnsupportedCheckpoint(
            f"the VAE in {header.path.name} has {config['latent_channels']} latent channels, "
            f"Stable Diffusion 1.x has {LATENT_CHANNELS}"
        )
    return _vae_recipe(header.layout, _frozen(config))


def _text_encoder(header: CheckpointHeader) -> Recipe:
    return _clip_recipe(header.layout, _frozen(clip_config(header)))


def _frozen(config: Mapping[str, Any]) -> Config:
    return tuple(config.items())


@lru_cache(maxsize=_RECIPES_KEPT)
@_quiet_libraries()
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


@lru_cache(maxsize=_RECIPES_KEPT)
@_quiet_libraries()
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


@lru_cache(maxsize=_RECIPES_KEPT)
def _clip_recipe(layout: Layout, config: Config) -> Recipe:
    names = text_names(layout)
    return Recipe(
        role="text_encoder",
        layout=layout,
        skeleton=_clip_skeleton(config),
        sources={name: Source(key, layout.tensors[key].shape) for name, key in names.items()},
    )


@lru_cache(maxsize=_SKELETONS_KEPT)
@_quiet_libraries()
def _unet_skeleton(config: Config) -> Skeleton:
    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from sdforge.models.attention import use_direct_attention
    from sdforge.models.skeleton import Skeleton, no_initial_weights

    with torch.device("meta"), no_initial_weights():
        module = UNet2DConditionModel(**dict(config))
        use_direct_attention(module)
    return Skeleton(module)


@lru_cache(maxsize=_SKELETONS_KEPT)
@_quiet_libraries()
def _vae_skeleton(config: Config) -> Skeleton:
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from sdforge.models.skeleton import Skeleton, no_initial_weights

    with torch.device("meta"), no_initial_weights():
        return Skeleton(AutoencoderKL(**dict(config)))


@lru_cache(maxsize=_SKELETONS_KEPT)
@_quiet_libraries()
def _clip_skeleton(config: Config) -> Skeleton:
    import torch

    from sdforge.models.clip import ClipTextModel
    from sdforge.models.skeleton import Skeleton, no_initial_weights

    with torch.device("meta"), no_initial_weights():
        return Skeleton(ClipTextModel(**dict(config)))


def _check_complete(recipe: Recipe, header: CheckpointHeader) -> None:
    """Raise unless every tensor of the module has a source of the same shape."""
    file, part = header.path.name, recipe.role.replace("_", " ")
    wanted = recipe.skeleton.shapes
    missing = [name for name in wanted if name not in recipe.sources]
    if missing:
        raise MissingModel(
            f"the {part} in {file} is incomplete: {len(missing)} of {len(wanted)} tensors are "
            f"missing, for one {missing[0]}"
        )
    for name, shape in wanted.items():
        source = recipe.sources[name]
        if source.shape != shape:
            raise UnsupportedCheckpoint(
                f"the {part} in {file} cannot be run: {source.key} has the shape "
                f"{list(source.shape)}, {list(shape)} was expected"
            )
