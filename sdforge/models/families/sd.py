"""Stable Diffusion 1.x: a U-Net in the layout of SD 1.5 at any width, CLIP, and a KL VAE.

Recognition reads shapes only. `ldm` and `clips` say how its networks are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from sdforge.core.request import Recommended
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Match, Recipe
from sdforge.models.families.building import check_complete, kl_vae_only
from sdforge.models.families.clips import QUICK_GELU, clip_recipe
from sdforge.models.families.fast_kinds import fast_kind, signs_of
from sdforge.models.families.ldm import STANDARD_VAE_WIDTH, unet_recipe, vae_recipe
from sdforge.models.families.sd_shapes import TEXT, UNET, context_width, text_names

if TYPE_CHECKING:
    from sdforge.memory.component import Component
    from sdforge.memory.manager import MemoryManager
    from sdforge.models.bundle import Parts
    from sdforge.models.parts import Part

LATENT_CHANNELS, INPAINTING_CHANNELS = 4, 9
_SIDE = 512
LATENT_DOWNSCALE = 8
LATENT_SCALE = 0.18215
VARIANTS = {4: "standard", 8: "instruct-pix2pix", 9: "inpainting"}
_V_WORDS = frozenset({"v", "v_prediction", "v-prediction"})
_EPSILON_WORDS = frozenset({"epsilon", "eps"})


class StableDiffusion1:
    """The family of SD 1.4, 1.5 and their fine-tunes."""

    name = "sd1"
    label = "Stable Diffusion 1.x"
    roles = ("text_encoder", "denoiser", "vae")
    optional: frozenset[str] = frozenset()
    apart: Mapping[str, tuple[str, str]] = MappingProxyType({})

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
        variant = VARIANTS.get(channels, f"{channels}-channel")
        said = prediction(header) or "epsilon"
        kind = fast_kind(header.path.stem, header.metadata, side=_SIDE)
        return Match(
            family=self.name,
            variant=variant,
            prediction=said,
            reason=(
                f"Stable Diffusion 1.x layout: U-Net of width {width} with {channels} input "
                "channels and convolutional attention projections, text states of width "
                f"{context_width(header)}; {_text_reason(header)}; {said}-prediction"
                + signs_of(kind)
            ),
            problem=_problem(header, variant),
            recommended=kind.recommended if kind else Recommended(),
        )

    def role_of(self, part: Part) -> str | None:
        """Return what a network of any file is to this family: only the VAE can be replaced."""
        return kl_vae_only(part, LATENT_CHANNELS)

    def recipe(self, role: str, header: CheckpointHeader) -> Recipe:
        """Return how to make the U-Net, the text encoder or the VAE from a file.

        Raises:
            MissingModel: the file lacks this part, or some of it.
            UnsupportedCheckpoint: its shapes do not fit together.
        """
        makers = {"denoiser": unet_recipe, "text_encoder": _text_encoder, "vae": _vae}
        recipe = makers[role](header)
        check_complete(recipe, header)
        return recipe

    def assemble(
        self,
        match: Match,
        components: Mapping[str, Component],
        memory: MemoryManager,
        headers: Mapping[str, CheckpointHeader],
    ) -> Parts:
        """Return encoder, denoiser and VAE over the loaded networks."""
        from sdforge.models.bundle import LatentFormat, Parts
        from sdforge.models.denoiser import SEES, DenoiserModel, scaled_linear_sigmas
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
                components["denoiser"],
                scaled_linear_sigmas(),
                prediction=match.prediction or "epsilon",
                sees=SEES.get(match.variant, ""),
            ),
        )


def prediction(header: CheckpointHeader) -> str | None:
    """Return what a file says that its U-Net predicts, 'v' or 'epsilon'; None where nothing."""
    said = header.metadata.get("modelspec.prediction_type", "").strip().casefold()
    if said in _V_WORDS or "v_pred" in header.tensors:
        return "v"
    return "epsilon" if said in _EPSILON_WORDS else None


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
    if variant not in VARIANTS.values():
        return f"{variant} checkpoints are recognised but not supported in this version"
    context, width = context_width(header), _text_width(header)
    if width is not None and width != context:
        return f"its U-Net wants text states of width {context}, its text encoder has {width}"
    return None


def _vae(header: CheckpointHeader) -> Recipe:
    return vae_recipe(header, latent_channels=LATENT_CHANNELS, family=StableDiffusion1.label)


def _text_encoder(header: CheckpointHeader) -> Recipe:
    return clip_recipe(header, TEXT, role="text_encoder", activation=QUICK_GELU)
