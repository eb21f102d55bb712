"""Stable Diffusion XL: base, refiner, and the fast kinds (Turbo, Lightning, LCM, Hyper).

A U-Net that is told sizes beside the text, CLIP-L and CLIP-G (the refiner: CLIP-G alone), and SD
1.x's VAE with another scale. Podell et al. 2023, arXiv:2307.01952.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from sdforge.core.request import Recommended
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Match, Recipe
from sdforge.models.families.building import check_complete, kl_vae_only
from sdforge.models.families.clips import GELU, QUICK_GELU, clip_recipe, clip_width
from sdforge.models.families.fast_kinds import fast_kind, signs_of
from sdforge.models.families.ldm import STANDARD_VAE_WIDTH, unet_recipe, vae_recipe
from sdforge.models.families.sd import (
    INPAINTING_CHANNELS,
    LATENT_CHANNELS,
    LATENT_DOWNSCALE,
    VARIANTS,
    prediction,
)
from sdforge.models.families.sd_shapes import SIZE_WIDTH, UNET, context_width

if TYPE_CHECKING:
    from sdforge.memory.component import Component
    from sdforge.memory.manager import MemoryManager
    from sdforge.models.bundle import Parts
    from sdforge.models.parts import Part
    from sdforge.models.sdxl_text import SdxlText

_SCALE = 0.13025
_SIDE = 1024
# CLIP-G always gives its last layer but one; so does CLIP-L unless a setting says otherwise.
_G_SKIP = 2
# How many numbers about size the U-Net is told: of the picture, of its crop, and of the target; the
# refiner has an aesthetic score instead of the last two.
_BASE_NUMBERS, _REFINER_NUMBERS = 6, 5
_ZERO_TERMINAL = "ztsnr"
# Playground 2.5 and CosXL are scaled by rules of their own.
_EDM_MARKS = ("edm_mean", "edm_vpred.sigma_max", "edm_std")


@dataclass(frozen=True, kw_only=True)
class _TextPart:
    """One text encoder: its role, where it lies in files, and whether it is OpenCLIP's."""

    role: str
    prefixes: tuple[str, ...]
    is_open: bool


_CLIP_L = _TextPart(
    role="text_encoder", prefixes=("conditioner.embedders.0.transformer.",), is_open=False
)
_CLIP_G = _TextPart(
    role="text_encoder_2",
    prefixes=("conditioner.embedders.1.model.", "conditioner.embedders.1.transformer."),
    is_open=True,
)
_ONLY_CLIP_G = _TextPart(
    role="text_encoder", prefixes=("conditioner.embedders.0.model.",), is_open=True
)


class StableDiffusionXl:
    """The family of SDXL base and its fine-tunes."""

    name = "sdxl"
    label = "Stable Diffusion XL"
    optional: frozenset[str] = frozenset()
    apart: Mapping[str, tuple[str, str]] = MappingProxyType({})
    _texts: tuple[_TextPart, ...] = (_CLIP_L, _CLIP_G)
    _is_refiner = False

    @property
    def roles(self) -> tuple[str, ...]:
        """Networks that a checkpoint holds."""
        return (*(part.role for part in self._texts), "denoiser", "vae")

    def match(self, header: CheckpointHeader) -> Match | None:
        """Return why the file is of this family, or None when it is not."""
        first = header.shape(f"{UNET}input_blocks.0.0.weight")
        label = header.shape(f"{UNET}label_emb.0.0.weight")
        context = context_width(header)
        if first is None or label is None or context is None:
            return None
        if len(first) != 4 or len(label) != 2 or _is_refiner(label[1], context) is None:
            return None
        if _is_refiner(label[1], context) != self._is_refiner:
            return None
        channels = first[1]
        kind = fast_kind(header.path.stem, header.metadata)
        said = prediction(header) or "epsilon"
        variant = VARIANTS.get(channels, f"{channels}-channel")
        is_terminal = _ZERO_TERMINAL in header.tensors
        return Match(
            family=self.name,
            variant=kind.name if kind and variant == "standard" else variant,
            prediction=said,
            reason=(
                f"{self.label} layout: U-Net of width {first[0]} with {channels} input channels "
                f"and a label of length {label[1]}, text states of width {context}; "
                f"{said}-prediction"
                + (" with zero terminal noise" if is_terminal else "")
                + signs_of(kind)
            ),
            problem=self._problem(header, channels, context),
            recommended=kind.recommended if kind else Recommended(width=_SIDE, height=_SIDE),
            is_zero_terminal=is_terminal,
        )

    def role_of(self, part: Part) -> str | None:
        """Return what a network of any file is to this family: only the VAE can be replaced."""
        return kl_vae_only(part, LATENT_CHANNELS)

    def recipe(self, role: str, header: CheckpointHeader) -> Recipe:
        """Return how to make one of the networks from a file.

        Raises:
            MissingModel: the file lacks this part, or some of it.
            UnsupportedCheckpoint: its shapes do not fit together.
        """
        if role == "denoiser":
            recipe = unet_recipe(header)
        elif role == "vae":
            recipe = vae_recipe(header, latent_channels=LATENT_CHANNELS, family=self.label)
        else:
            part = next(part for part in self._texts if part.role == role)
            recipe = clip_recipe(
                header,
                *part.prefixes,
                role=role,
                activation=GELU if part.is_open else QUICK_GELU,
                projects=part.is_open,
            )
        check_complete(recipe, header)
        return recipe

    def assemble(
        self,
        match: Match,
        components: Mapping[str, Component],
        memory: MemoryManager,
        headers: Mapping[str, CheckpointHeader],
    ) -> Parts:
        """Return encoders, denoiser and VAE over the loaded networks."""
        from sdforge.models.bundle import LatentFormat, Parts
        from sdforge.models.denoiser import (
            SEES,
            DenoiserModel,
            scaled_linear_sigmas,
            zero_terminal_sigmas,
        )
        from sdforge.models.preview import SDXL_PREVIEW, fit_preview
        from sdforge.models.vae import Vae

        plain = LatentFormat(channels=LATENT_CHANNELS, downscale=LATENT_DOWNSCALE, scale=_SCALE)
        vae = Vae(components["vae"], memory, plain)
        preview = SDXL_PREVIEW if vae.width == STANDARD_VAE_WIDTH else fit_preview(vae)
        sigmas = zero_terminal_sigmas() if match.is_zero_terminal else scaled_linear_sigmas()
        return Parts(
            latent_format=plain.with_preview(*preview),
            text=self._text(components, memory),
            vae=vae,
            denoiser=DenoiserModel(
                components["denoiser"],
                sigmas,
                prediction=match.prediction or "epsilon",
                architecture=self.name,
                sees=SEES.get(match.variant, ""),
            ),
        )

    def _text(self, components: Mapping[str, Component], memory: MemoryManager) -> SdxlText:
        from sdforge.models.sdxl_text import SdxlText
        from sdforge.models.text_encoder import ClipRule, TextEncoder
        from sdforge.models.tokenizers import clip_tokenizer

        count = len(self._texts)
        encoders = []
        for place, part in enumerate(self._texts):
            rule = ClipRule(
                skip=_G_SKIP if part.is_open else None,
                normed=False,
                pooled=part.is_open,
                pads_with_zero=part.is_open,
                place=place,
                count=count,
            )
            encoders.append(TextEncoder(components[part.role], memory, clip_tokenizer(), rule))
        return SdxlText(*encoders, has_aesthetic_score=self._is_refiner)

    def _problem(self, header: CheckpointHeader, channels: int, context: int) -> str | None:
        if channels not in (LATENT_CHANNELS, INPAINTING_CHANNELS):
            kind = VARIANTS.get(channels, f"{channels}-channel")
            return f"{kind} checkpoints of SDXL are recognised but not supported in this version"
        if any(mark in header.tensors for mark in _EDM_MARKS):
            return "it is scaled by the rules of EDM, which this version does not have"
        widths = [clip_width(header, *part.prefixes) for part in self._texts]
        known = [width for width in widths if width is not None]
        if len(known) == len(widths) and sum(known) != context:
            has = " and ".join(map(str, known))
            return f"its U-Net wants text states of width {context}, its text encoders have {has}"
        return None


class SdxlRefiner(StableDiffusionXl):
    """The family of SDXL's refiner: made to draw the last steps, and able to draw all."""

    name = "sdxl-refiner"
    label = "Stable Diffusion XL refiner"
    _texts = (_ONLY_CLIP_G,)
    _is_refiner = True


def _is_refiner(label: int, context: int) -> bool | None:
    """Tell refiner and base apart by what their label is made of; None where it is neither.

    The label is the pooled text and the embedded numbers. The refiner's one text encoder is as wide
    as its states; the base has another one beside it.
    """
    if label - _REFINER_NUMBERS * SIZE_WIDTH == context:
        return True
    return False if 0 < label - _BASE_NUMBERS * SIZE_WIDTH < context else None
