"""Flux.1: dev, schnell, Fill and Kontext, in the names of their authors or of diffusers.

A transformer over patches of 2 × 2 latents with the text before them; CLIP-L gives one vector, T5
the rest; a VAE of 16 channels; alone or with all parts. dev is told how closely to follow the
prompt (distilled guidance), schnell draws in four steps. Fill is shown a mask and the picture
around it, Kontext a picture to change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sdforge.core.request import MOST_REFERENCES, Recommended
from sdforge.models.architectures import architecture
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Match, Recipe, Source
from sdforge.models.families.building import (
    RECIPES_KEPT,
    SKELETONS_KEPT,
    Config,
    check_complete,
    check_text_width,
    prefix_of,
    skeleton_of,
)
from sdforge.models.families.clips import QUICK_GELU, clip_recipe
from sdforge.models.families.flux_keys import flux_sources
from sdforge.models.families.ldm import vae_recipe
from sdforge.models.families.sd_shapes import Shapes
from sdforge.models.families.t5s import t5_recipe
from sdforge.models.layout import Layout
from sdforge.models.parts import Part

if TYPE_CHECKING:
    from sdforge.memory.component import Component
    from sdforge.memory.manager import MemoryManager
    from sdforge.models.bundle import Parts
    from sdforge.models.skeleton import Skeleton

LATENT_CHANNELS, LATENT_DOWNSCALE = 16, 8
SCALE, SHIFT = 0.3611, 0.1159
_SIDE = 1024
_T5_LEAST = 256
# dev's steps are shifted by the size of the picture, schnell's are not.
_STEPS = {"dev": 20, "schnell": 4, "fill": 30, "kontext": 28}
# What they are told, where it is not Flux dev's.
_DISTILLED = {"fill": 30.0, "kontext": 2.5}
# Nothing in Kontext's files differs from dev's; they say it in their names.
_KONTEXT = re.compile(r"kontext", re.IGNORECASE)


class Flux1:
    """The family of Flux.1 dev, schnell, Fill, Kontext and their fine-tunes."""

    name = "flux"
    label = "Flux.1"
    roles = ("text_encoder", "text_encoder_2", "denoiser", "vae")
    optional: frozenset[str] = frozenset()
    apart: Mapping[str, tuple[str, str]] = MappingProxyType(
        {
            "text_encoder": ("CLIP-L", "clip_l.safetensors"),
            "text_encoder_2": ("T5", "t5xxl_fp8_e4m3fn.safetensors"),
            "vae": ("VAE", "ae.safetensors"),
        }
    )

    def match(self, header: CheckpointHeader) -> Match | None:
        """Return why the file is a Flux.1 model, or None when it is not."""
        found = architecture(header.layout)
        if found is None or found.family != self.name:
            return None
        variant, reason = found.variant, f"{found.label}: {found.reason}"
        said = (header.path.stem, header.metadata.get("modelspec.title", ""))
        if variant == "dev" and any(map(_KONTEXT.search, said)):
            variant, reason = "kontext", f"{reason}; Kontext, going by its name"
        steps = _STEPS.get(variant)
        problem = None
        if steps is None:
            problem = f"Flux.1 {variant} is recognised but not supported in this version"
        return Match(
            family=self.name,
            variant=variant,
            prediction="flow",
            reason=reason,
            problem=problem,
            refers=MOST_REFERENCES if variant == "kontext" else 0,
            recommended=Recommended(
                width=_SIDE,
                height=_SIDE,
                steps=steps,
                cfg_scale=1.0,
                distilled_cfg_scale=_DISTILLED.get(variant),
                sampler="Euler",
            ),
        )

    def role_of(self, part: Part) -> str | None:
        """Return what a network of any file is to this family, None for no use."""
        if part.role == "vae":
            return "vae" if part.kind == f"kl-{LATENT_CHANNELS}" else None
        if part.role == "denoiser":
            return "denoiser" if part.kind == self.name else None
        return {"clip_l": "text_encoder", "clip": "text_encoder", "t5": "text_encoder_2"}.get(
            part.kind
        )

    def recipe(self, role: str, header: CheckpointHeader) -> Recipe:
        """Return how to make one of the networks from a file that holds it.

        Raises:
            MissingModel: the file lacks this part, or some of it.
            UnsupportedCheckpoint: its shapes do not fit together.
        """
        prefix = prefix_of(role, header, self.role_of)
        if role == "vae":
            recipe = vae_recipe(header, latent_channels=LATENT_CHANNELS, family=self.label)
        elif role == "text_encoder":
            recipe = clip_recipe(header, prefix, role=role, activation=QUICK_GELU)
        elif role == "text_encoder_2":
            recipe = t5_recipe(header, prefix, role=role)
        else:
            recipe = _transformer(header, prefix)
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
        from sdforge.models.denoiser import SEES_FINE_MASK, SEES_REFERENCE
        from sdforge.models.flow_denoiser import BY_SIZE, FlowDenoiser
        from sdforge.models.flux_call import call_flux
        from sdforge.models.flux_text import FluxText, T5Text
        from sdforge.models.preview import fit_preview
        from sdforge.models.text_encoder import ClipRule, TextEncoder
        from sdforge.models.tokenizers import clip_tokenizer, t5_tokenizer
        from sdforge.models.vae import Vae

        denoiser = components["denoiser"]
        check_text_width(denoiser, "pooled_projection_dim", components["text_encoder"])
        check_text_width(denoiser, "joint_attention_dim", components["text_encoder_2"])
        plain = LatentFormat(
            channels=LATENT_CHANNELS, downscale=LATENT_DOWNSCALE, scale=SCALE, shift=SHIFT
        )
        vae = Vae(components["vae"], memory, plain)
        clip = TextEncoder(
            components["text_encoder"], memory, clip_tokenizer(), ClipRule(pooled=True)
        )
        t5 = T5Text(components["text_encoder_2"], memory, t5_tokenizer, least=_T5_LEAST)
        is_guided = match.variant != "schnell"
        return Parts(
            latent_format=plain.with_preview(*fit_preview(vae)),
            text=FluxText(clip, t5, is_guided=is_guided),
            vae=vae,
            denoiser=FlowDenoiser(
                denoiser,
                call_flux,
                architecture=self.name,
                shift=BY_SIZE if is_guided else 1.0,
                usual_tokens=_T5_LEAST,
                sees={"fill": SEES_FINE_MASK, "kontext": SEES_REFERENCE}.get(match.variant, ""),
            ),
        )


def _transformer(header: CheckpointHeader, prefix: str) -> Recipe:
    names = header.under(prefix)
    shapes = Shapes(
        header, {name: header.tensors[key].shape for name, key in names.items()}, "transformer"
    )
    is_authors = "img_in.weight" in shapes
    if is_authors:
        width, channels = shapes.dims("img_in.weight", 2)
        head = shapes.dims("double_blocks.0.img_attn.norm.query_norm.scale", 1)[0]
        guided = "guidance_in.in_layer.weight" in shapes
        double = shapes.count(lambda number: f"double_blocks.{number}.img_mod.lin.weight")
        single = shapes.count(lambda number: f"single_blocks.{number}.linear1.weight")
        text = shapes.dims("txt_in.weight", 2)[1]
        pooled = shapes.dims("vector_in.in_layer.weight", 2)[1]
        out = shapes.dims("final_layer.linear.weight", 2)[0]
    else:
        width, channels = shapes.dims("x_embedder.weight", 2)
        head = shapes.dims("transformer_blocks.0.attn.norm_q.weight", 1)[0]
        guided = "time_text_embed.guidance_embedder.linear_1.weight" in shapes
        double = shapes.count(lambda number: f"transformer_blocks.{number}.norm1.linear.weight")
        single = shapes.count(lambda number: f"single_transformer_blocks.{number}.proj_out.weight")
        text = shapes.dims("context_embedder.weight", 2)[1]
        pooled = shapes.dims("time_text_embed.text_embedder.linear_1.weight", 2)[1]
        out = shapes.dims("proj_out.weight", 2)[0]
    if width % head or head % 16:
        raise shapes.misfit(f"its width {width} cannot be cut into heads of {head}")
    config: Config = (
        ("in_channels", channels),
        ("out_channels", out),
        ("num_layers", double),
        ("num_single_layers", single),
        ("attention_head_dim", head),
        ("num_attention_heads", width // head),
        ("joint_attention_dim", text),
        ("pooled_projection_dim", pooled),
        ("guidance_embeds", guided),
        ("axes_dims_rope", rotation_axes(head)),
    )
    return _recipe(header.layout, prefix, is_authors, width, config)


def rotation_axes(head: int) -> tuple[int, int, int]:
    """Return what of a head's width each of a token's three places gets: 16, 56, 56 of 128."""
    first = 2 * (head // 16)
    return first, (head - first) // 2, (head - first) // 2


@lru_cache(maxsize=RECIPES_KEPT)
def _recipe(layout: Layout, prefix: str, is_authors: bool, width: int, config: Config) -> Recipe:
    sources = (
        flux_sources(layout, prefix, width)
        if is_authors
        else {
            name: Source(key, layout.tensors[key].shape)
            for name, key in layout.under(prefix).items()
        }
    )
    return Recipe(
        role="denoiser", layout=layout, skeleton=_skeleton(is_authors, config), sources=sources
    )


@lru_cache(maxsize=SKELETONS_KEPT)
def _skeleton(is_authors: bool, config: Config) -> Skeleton:
    def make() -> Any:
        from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

        from sdforge.models.shift_first import ShiftFirst

        module = FluxTransformer2DModel(**dict(config))
        if is_authors:
            module.norm_out = ShiftFirst(module.norm_out)
        return module

    return skeleton_of(make)
