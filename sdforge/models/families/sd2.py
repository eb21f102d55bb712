"""Stable Diffusion 2.x: SD 1's layout with linear projections and OpenCLIP's ViT-H text encoder.

Nothing in the weights of a file tells whether it predicts noise (512 pixels) or velocity (768).
Metadata, a configuration beside it or its name may; otherwise the network is asked once at load.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sdforge.core.request import Recommended
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Match, Recipe
from sdforge.models.families.building import check_complete, kl_vae_only
from sdforge.models.families.clips import GELU, clip_recipe, clip_width
from sdforge.models.families.fast_kinds import fast_kind, signs_of
from sdforge.models.families.ldm import STANDARD_VAE_WIDTH, unet_recipe, vae_recipe
from sdforge.models.families.sd import (
    INPAINTING_CHANNELS,
    LATENT_CHANNELS,
    LATENT_DOWNSCALE,
    LATENT_SCALE,
    VARIANTS,
)
from sdforge.models.families.sd import prediction as said_prediction
from sdforge.models.families.sd_shapes import TEXT, UNET, context_width

if TYPE_CHECKING:
    from sdforge.memory.component import Component
    from sdforge.memory.manager import MemoryManager
    from sdforge.models.bundle import Parts
    from sdforge.models.parts import Part

_TEXTS = ("cond_stage_model.model.", TEXT)
_V_SIDE, _EPSILON_SIDE = 768, 512
_CLIP_SKIP = 2
# Keys and values of configurations as they were published beside checkpoints (".yaml").
_CONFIG_LINE = re.compile(rb"^\s*parameterization:\s*[\"']?(v|eps)[\"']?\s*$", re.MULTILINE)
_MOST_CONFIG_BYTES = 65536
# The network is asked for a flat grey at the noisiest timestep: of noise it says about what it
# sees, of velocity the opposite of the picture (A1111's test and threshold).
_PROBE_TIMESTEP, _PROBE_SIDE, _PROBE_VALUE, _PROBE_LIMIT = 999, 8, 0.5, -1.0


class StableDiffusion2:
    """The family of SD 2.0, 2.1 and their fine-tunes."""

    name = "sd2"
    label = "Stable Diffusion 2.x"
    roles = ("text_encoder", "denoiser", "vae")
    optional: frozenset[str] = frozenset()
    apart: Mapping[str, tuple[str, str]] = MappingProxyType({})

    def match(self, header: CheckpointHeader) -> Match | None:
        """Return why the file is an SD 2.x checkpoint, or None when it is not."""
        first = header.shape(f"{UNET}input_blocks.0.0.weight")
        projection = header.shape(f"{UNET}input_blocks.1.1.proj_in.weight")
        if first is None or projection is None or len(first) != 4 or len(projection) != 2:
            return None
        if header.has_prefix(f"{UNET}label_emb.") or header.has_prefix("conditioner."):
            return None
        prediction, sign = _prediction(header)
        side = _V_SIDE if prediction == "v" else _EPSILON_SIDE
        channels = first[1]
        kind = fast_kind(header.path.stem, header.metadata, side=side)
        text = clip_width(header, *_TEXTS)
        return Match(
            family=self.name,
            variant=VARIANTS.get(channels, f"{channels}-channel"),
            prediction=prediction,
            reason=(
                f"Stable Diffusion 2.x layout: U-Net of width {first[0]} with {channels} input "
                "channels and linear attention projections, text states of width "
                f"{context_width(header)}; text encoder of width {text}; {sign}" + signs_of(kind)
            ),
            problem=_problem(header, channels, text),
            recommended=kind.recommended if kind else Recommended(width=side, height=side),
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
        if role == "denoiser":
            recipe = unet_recipe(header)
        elif role == "vae":
            recipe = vae_recipe(header, latent_channels=LATENT_CHANNELS, family=self.label)
        else:
            recipe = clip_recipe(header, *_TEXTS, role=role, activation=GELU)
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
        from sdforge.models.text_encoder import ClipRule, TextEncoder
        from sdforge.models.tokenizers import clip_tokenizer
        from sdforge.models.vae import Vae

        plain = LatentFormat(
            channels=LATENT_CHANNELS, downscale=LATENT_DOWNSCALE, scale=LATENT_SCALE
        )
        vae = Vae(components["vae"], memory, plain)
        preview = SD1_PREVIEW if vae.width == STANDARD_VAE_WIDTH else fit_preview(vae)
        # Published SD 2 was trained on the last layer but one; A1111 lets nobody change that.
        rule = ClipRule(skip=_CLIP_SKIP, pads_with_zero=True)
        network = components["denoiser"]
        sees = SEES.get(match.variant, "")
        # The only inpainting model of this family, and all made from it, predict noise.
        known = match.prediction or ("epsilon" if sees else None)
        return Parts(
            latent_format=plain.with_preview(*preview),
            text=TextEncoder(components["text_encoder"], memory, clip_tokenizer(), rule),
            vae=vae,
            denoiser=DenoiserModel(
                network,
                scaled_linear_sigmas(),
                prediction=known or measured_prediction(network, memory),
                architecture=self.name,
                sees=sees,
            ),
        )


def measured_prediction(component: Component, memory: MemoryManager) -> str:
    """Return 'v' or 'epsilon', going by what the network answers to a flat grey."""
    import torch

    device = memory.compute_device
    dtype = next(component.module.parameters()).dtype
    config: Any = component.module.config
    grey = torch.full(
        (1, config["in_channels"], _PROBE_SIDE, _PROBE_SIDE), _PROBE_VALUE, device=device
    )
    text = torch.full((1, 2, config["cross_attention_dim"]), _PROBE_VALUE, device=device)
    with memory.lease(component) as module, torch.inference_mode():
        (answer,) = module(
            grey.to(dtype), _PROBE_TIMESTEP, encoder_hidden_states=text.to(dtype), return_dict=False
        )
        seen = grey[:, : answer.shape[1]]
        difference = (answer.float() - seen).mean().item()
    return "v" if difference < _PROBE_LIMIT else "epsilon"


def _prediction(header: CheckpointHeader) -> tuple[str | None, str]:
    """Return the prediction, None where nothing tells, and by which sign."""
    said = said_prediction(header)
    if said is not None:
        return said, f"{said}-prediction, its metadata say"
    beside = _said_beside(header.path)
    if beside is not None:
        return beside, f"{beside}-prediction, the configuration beside it says"
    architecture = header.metadata.get("modelspec.architecture", "").casefold()
    if architecture.startswith("stable-diffusion-v2"):
        found = "v" if "768-v" in architecture else "epsilon"
        return found, f"{found}-prediction, its metadata say"
    name = header.path.stem.casefold()
    if re.search(r"(?<!\d)768(?!\d)|[-_]v[-_]?pred", name):
        return "v", "v-prediction, going by its name"
    if re.search(r"(?<!\d)512(?!\d)", name):
        return "epsilon", "epsilon-prediction, going by its name"
    return None, "what it predicts is found out when it is loaded"


def _said_beside(path: Path) -> str | None:
    try:
        with path.with_suffix(".yaml").open("rb") as file:
            text = file.read(_MOST_CONFIG_BYTES)
    except OSError:
        return None
    if b"unet_config" not in text:
        return None
    found = _CONFIG_LINE.search(text)
    return "v" if found and found[1] == b"v" else "epsilon"


def _problem(header: CheckpointHeader, channels: int, text: int | None) -> str | None:
    if channels not in (LATENT_CHANNELS, INPAINTING_CHANNELS):
        kind = VARIANTS.get(channels, f"{channels}-channel")
        return f"{kind} checkpoints of SD 2.x are recognised but not supported in this version"
    context = context_width(header)
    if text is not None and text != context:
        return f"its U-Net wants text states of width {context}, its text encoder has {text}"
    return None
