"""Stable Diffusion 3 medium, 3.5 medium and 3.5 large, with or without T5.

A transformer in which text and picture attend to each other with matrices of their own (MMDiT);
CLIP-L and CLIP-G give a pooled vector and, with T5, the states; a VAE of 16 channels. In the names
of its authors or of diffusers, all in one file or in parts. Esser et al. 2024, arXiv:2403.03206.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import isqrt
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sdforge.core.request import Recommended
from sdforge.models.architectures import architecture
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Match, Recipe, Source
from sdforge.models.families.building import (
    RECIPES_KEPT,
    SKELETONS_KEPT,
    Config,
    check_complete,
    check_text_width,
    kl_vae_only,
    plain_sources,
    prefix_of,
    skeleton_of,
)
from sdforge.models.families.clips import GELU, QUICK_GELU, clip_recipe
from sdforge.models.families.fast_kinds import fast_kind, signs_of
from sdforge.models.families.ldm import vae_recipe
from sdforge.models.families.sd3_keys import sd3_sources
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
_SCALE, _SHIFT = 1.5305, 0.0609
_SIDE = 1024
_SIGMA_SHIFT = 3.0
_T5_LEAST = 256
# Both CLIPs give their last layer but one.
_SKIP = 2
_NORMED = "transformer_blocks.0.attn.norm_q.weight"
# What a picture's side is counted in, in the transformer's table of places.
_PATCH = 2
# Variant → steps and CFG scale, as their authors recommend.
_USUAL = {"medium": (28, 7.0), "3.5-medium": (40, 4.5), "3.5-large": (28, 3.5)}
_ROLES = {
    "clip_l": "text_encoder", "clip": "text_encoder", "clip_g": "text_encoder_2",
    "t5": "text_encoder_3",
}  # fmt: skip


class StableDiffusion3:
    """The family of Stable Diffusion 3 and 3.5."""

    name = "sd3"
    label = "Stable Diffusion 3"
    roles = ("text_encoder", "text_encoder_2", "text_encoder_3", "denoiser", "vae")
    optional = frozenset({"text_encoder_3"})
    apart: Mapping[str, tuple[str, str]] = MappingProxyType(
        {
            "text_encoder": ("CLIP-L", "clip_l.safetensors"),
            "text_encoder_2": ("CLIP-G", "clip_g.safetensors"),
            "text_encoder_3": ("T5", "t5xxl_fp8_e4m3fn.safetensors"),
            "vae": ("VAE", "sd3_vae.safetensors"),
        }
    )

    def match(self, header: CheckpointHeader) -> Match | None:
        """Return why the file is an SD 3 model, or None when it is not."""
        found = architecture(header.layout)
        if found is None or found.family != self.name:
            return None
        kind = fast_kind(header.path.stem, header.metadata)
        steps, cfg_scale = _USUAL[found.variant]
        if kind:
            steps, cfg_scale = kind.recommended.steps or steps, 1.0
        return Match(
            family=self.name,
            variant=f"{found.variant}-{kind.name}" if kind else found.variant,
            prediction="flow",
            reason=f"{found.label}: {found.reason}" + signs_of(kind),
            recommended=Recommended(
                width=_SIDE, height=_SIDE, steps=steps, cfg_scale=cfg_scale, sampler="Euler"
            ),
        )

    def role_of(self, part: Part) -> str | None:
        """Return what a network of any file is to this family, None for no use."""
        if part.role == "denoiser":
            return "denoiser" if part.kind == self.name else None
        return _ROLES.get(part.kind) or kl_vae_only(part, LATENT_CHANNELS)

    def recipe(self, role: str, header: CheckpointHeader) -> Recipe:
        """Return how to make one of the networks from a file that holds it.

        Raises:
            MissingModel: the file lacks this part, or some of it.
            UnsupportedCheckpoint: its shapes do not fit together.
        """
        prefix = prefix_of(role, header, self.role_of)
        if role == "vae":
            recipe = vae_recipe(header, latent_channels=LATENT_CHANNELS, family=self.label)
        elif role in ("text_encoder", "text_encoder_2"):
            is_large = role == "text_encoder_2"
            # CLIP-L's files for SD 3 leave its projection out where it changes nothing.
            projects = is_large or f"{prefix}text_projection.weight" in header.tensors
            activation = GELU if is_large else QUICK_GELU
            recipe = clip_recipe(
                header, prefix, role=role, activation=activation, projects=projects
            )
        elif role == "text_encoder_3":
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
        from sdforge.models.flow_denoiser import FlowDenoiser
        from sdforge.models.flux_text import T5Text
        from sdforge.models.preview import fit_preview
        from sdforge.models.sd3_call import call_sd3
        from sdforge.models.sd3_text import Sd3Text
        from sdforge.models.text_encoder import ClipRule, TextEncoder
        from sdforge.models.tokenizers import clip_tokenizer, t5_tokenizer
        from sdforge.models.vae import Vae

        denoiser, large = components["denoiser"], components.get("text_encoder_3")
        both_clips = (components["text_encoder"], components["text_encoder_2"])
        check_text_width(denoiser, "pooled_projection_dim", *both_clips)
        if large is not None:
            check_text_width(denoiser, "joint_attention_dim", large)
        plain = LatentFormat(
            channels=LATENT_CHANNELS, downscale=LATENT_DOWNSCALE, scale=_SCALE, shift=_SHIFT
        )
        vae = Vae(components["vae"], memory, plain)
        clips = [
            TextEncoder(
                components[role],
                memory,
                clip_tokenizer(),
                ClipRule(skip=_SKIP, normed=False, pooled=True, pads_with_zero=is_large),
            )
            for role, is_large in (("text_encoder", False), ("text_encoder_2", True))
        ]
        t5 = None if large is None else T5Text(large, memory, t5_tokenizer, least=_T5_LEAST)
        transformer: Any = denoiser.module
        width = transformer.config["joint_attention_dim"]
        tokens = 77 + _T5_LEAST
        return Parts(
            latent_format=plain.with_preview(*fit_preview(vae)),
            text=Sd3Text(clips, t5, width=width, least=_T5_LEAST),
            vae=vae,
            denoiser=FlowDenoiser(
                denoiser,
                call_sd3,
                architecture=self.name,
                shift=_SIGMA_SHIFT,
                usual_tokens=tokens,
            ),
        )


def _transformer(header: CheckpointHeader, prefix: str) -> Recipe:
    is_authors = f"{prefix}joint_blocks.0.x_block.attn.qkv.weight" in header.tensors
    sources = _sources(header.layout, prefix, is_authors)
    shapes = Shapes(header, {name: one.shape for name, one in sources.items()}, "transformer")
    width, channels, *_ = shapes.dims("pos_embed.proj.weight", 4)
    places = shapes.dims("pos_embed.pos_embed", 3)[1]
    depth = shapes.count(lambda number: f"transformer_blocks.{number}.norm1.linear.weight")
    second = [
        number
        for number in range(depth)
        if f"transformer_blocks.{number}.attn2.to_q.weight" in shapes
    ]
    head = head_width(shapes)
    if width % head or isqrt(places) ** 2 != places:
        raise shapes.misfit(f"its width {width} or its {places} places cannot be cut evenly")
    config: Config = (
        ("patch_size", _PATCH),
        ("in_channels", channels),
        ("out_channels", shapes.dims("proj_out.weight", 2)[0] // _PATCH**2),
        ("num_layers", depth),
        ("attention_head_dim", head),
        ("num_attention_heads", width // head),
        ("joint_attention_dim", shapes.dims("context_embedder.weight", 2)[1]),
        ("caption_projection_dim", width),
        (
            "pooled_projection_dim",
            shapes.dims("time_text_embed.text_embedder.linear_1.weight", 2)[1],
        ),
        ("pos_embed_max_size", isqrt(places)),
        ("dual_attention_layers", tuple(second)),
        ("qk_norm", "rms_norm" if _NORMED in shapes else None),
    )
    return _recipe(header.layout, prefix, is_authors, config)


def head_width(shapes: Shapes) -> int:
    """Return the width of the heads of SD 3's blocks, by diffusers' names.

    Where queries are not normalised nothing tells: all published ones have heads of 64.
    """
    return shapes.dims(_NORMED, 1)[0] if _NORMED in shapes else 64


@lru_cache(maxsize=RECIPES_KEPT)
def _recipe(layout: Layout, prefix: str, is_authors: bool, config: Config) -> Recipe:
    return Recipe(
        role="denoiser",
        layout=layout,
        skeleton=_skeleton(is_authors, config),
        sources=_sources(layout, prefix, is_authors),
    )


@lru_cache(maxsize=RECIPES_KEPT)
def _sources(layout: Layout, prefix: str, is_authors: bool) -> Mapping[str, Source]:
    if is_authors:
        return sd3_sources(layout, prefix)
    return plain_sources(layout, prefix)


@lru_cache(maxsize=SKELETONS_KEPT)
def _skeleton(is_authors: bool, config: Config) -> Skeleton:
    def make() -> Any:
        from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

        from sdforge.models.shift_first import ShiftFirst

        module = SD3Transformer2DModel(**dict(config))
        if is_authors:
            module.norm_out = ShiftFirst(module.norm_out)
            last = module.transformer_blocks[-1]
            last.norm1_context = ShiftFirst(last.norm1_context)
        return module

    return skeleton_of(make)
