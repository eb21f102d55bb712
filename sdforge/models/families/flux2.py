"""Flux.2: [klein], distilled and base, and [dev], in the names of their authors or of diffusers.

A transformer over patches of a VAE of its own with the text before them. The same network draws
from nothing and changes what it is shown. [klein] has Qwen3 for a reader; its distilled models draw
in four steps without guidance, and nothing but their names tells them from the base models. [dev]
has Mistral Small, whose tokenizer comes with it, and is told how closely to follow the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache, partial
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
    plain_sources,
    skeleton_of,
)
from sdforge.models.families.flux2_vaes import CHANNELS, DOWNSCALE, flux2_vae_recipe
from sdforge.models.families.flux_keys import FLUX2, flux_sources
from sdforge.models.families.one_reader import OneReader
from sdforge.models.families.qwens import qwen_recipe
from sdforge.models.families.sd_shapes import Shapes
from sdforge.models.layout import Layout

if TYPE_CHECKING:
    from sdforge.memory.component import Component
    from sdforge.memory.manager import MemoryManager
    from sdforge.models.flow_denoiser import FlowDenoiser
    from sdforge.models.skeleton import Skeleton
    from sdforge.models.text_encoder import PromptText
    from sdforge.models.vae import Vae

_SIDE = 1024
_MISTRAL = "Mistral"
_VAE = ("VAE", "flux2-vae.safetensors")
# After these layers of the reader; their states lie side by side.
_KLEIN_LAYERS, _DEV_LAYERS = (9, 18, 27), (10, 20, 30)
_DISTILLED = Recommended(width=_SIDE, height=_SIDE, steps=4, cfg_scale=1.0, sampler="Euler")
_BASE = Recommended(width=_SIDE, height=_SIDE, steps=50, cfg_scale=4.0, sampler="Euler")
_DEV = Recommended(
    width=_SIDE,
    height=_SIDE,
    steps=28,
    cfg_scale=1.0,
    distilled_cfg_scale=4.0,
    sampler="Euler",
)
_IS_BASE = re.compile(r"(?<![a-z])base(?![a-z])", re.IGNORECASE)
_AUTHORS = "img_in.weight"
_AXES = 4


class _Flux2(OneReader):
    """What both families share."""

    vae_kind = "flux2"

    def transformer_recipe(self, header: CheckpointHeader, prefix: str) -> Recipe:
        """Return how to make the denoiser from the tensors below `prefix`."""
        sources = _sources(header.layout, prefix)
        shapes = Shapes(header, {name: one.shape for name, one in sources.items()}, "transformer")
        width, channels = shapes.dims("x_embedder.weight", 2)
        head = shapes.dims("transformer_blocks.0.attn.norm_q.weight", 1)[0]
        hidden = shapes.dims("transformer_blocks.0.ff.linear_out.weight", 2)[1]
        if width % head or head % (2 * _AXES):
            raise shapes.misfit(f"its width {width} cannot be cut into heads of {head}")
        time = "time_guidance_embed.timestep_embedder.linear_1.weight"
        config: Config = (
            ("in_channels", channels),
            ("out_channels", shapes.dims("proj_out.weight", 2)[0]),
            ("num_layers", shapes.count(lambda n: f"transformer_blocks.{n}.attn.to_q.weight")),
            (
                "num_single_layers",
                shapes.count(lambda n: f"single_transformer_blocks.{n}.attn.to_out.weight"),
            ),
            ("attention_head_dim", head),
            ("num_attention_heads", width // head),
            ("joint_attention_dim", shapes.dims("context_embedder.weight", 2)[1]),
            ("timestep_guidance_channels", shapes.dims(time, 2)[1]),
            ("mlp_ratio", hidden / width),
            ("axes_dims_rope", (head // _AXES,) * _AXES),
            (
                "guidance_embeds",
                "time_guidance_embed.guidance_embedder.linear_1.weight" in shapes,
            ),
        )
        is_authors = _AUTHORS in header.layout.under(prefix)
        return _recipe(header.layout, prefix, is_authors, config)

    def vae_recipe(self, header: CheckpointHeader, prefix: str) -> Recipe:
        """Return how to make the VAE from the tensors below `prefix`."""
        return flux2_vae_recipe(header)

    def vae(self, component: Component, memory: MemoryManager) -> Vae:
        """Return what encodes and decodes."""
        from sdforge.models.bundle import LatentFormat
        from sdforge.models.flux2_vae import PatchedVae

        own = LatentFormat(channels=CHANNELS, downscale=DOWNSCALE, scale=1.0)
        return PatchedVae(component, memory, own, trace="vae-32")

    def denoiser(self, component: Component) -> FlowDenoiser:
        """Return what calls the denoiser."""
        from sdforge.models.denoiser import SEES_REFERENCE
        from sdforge.models.flow_denoiser import BY_SIZE_AND_STEPS, FlowDenoiser
        from sdforge.models.flux2_call import call_flux2
        from sdforge.models.flux2_text import TOKENS

        return FlowDenoiser(
            component,
            call_flux2,
            architecture=self.name,
            shift=BY_SIZE_AND_STEPS,
            usual_tokens=TOKENS,
            sees=SEES_REFERENCE,
        )


class Flux2Klein(_Flux2):
    """The family of Flux.2 [klein] 4B and 9B and their fine-tunes."""

    name = "flux2-klein"
    label = "Flux.2 [klein]"
    reader = "qwen3"
    apart: Mapping[str, tuple[str, str]] = MappingProxyType(
        {
            "text_encoder": ("Qwen3 text encoder", "qwen_3_4b.safetensors (9B: qwen_3_8b)"),
            "vae": _VAE,
        }
    )

    def match(self, header: CheckpointHeader) -> Match | None:
        """Return why the file is a Flux.2 [klein] model, or None when it is not."""
        found = architecture(header.layout)
        if found is None or found.family != self.name:
            return None
        said = (header.path.stem, header.metadata.get("modelspec.title", ""))
        is_base = any(map(_IS_BASE.search, said))
        return Match(
            family=self.name,
            variant="base" if is_base else "distilled",
            prediction="flow",
            reason=f"{found.label}: {found.reason}"
            + ("; a base model, going by its name" if is_base else ""),
            refers=MOST_REFERENCES,
            recommended=_BASE if is_base else _DISTILLED,
        )

    def text_recipe(self, header: CheckpointHeader, prefix: str) -> Recipe:
        """Return how to make the reader from the tensors below `prefix`."""
        return qwen_recipe(header, prefix, role="text_encoder", taps=_KLEIN_LAYERS)

    def text(
        self, component: Component, memory: MemoryManager, header: CheckpointHeader
    ) -> PromptText:
        """Return what reads prompts."""
        from sdforge.models.flux2_text import KleinText
        from sdforge.models.tokenizers import qwen_tokenizer

        return KleinText(component, memory, qwen_tokenizer)


class Flux2Dev(_Flux2):
    """The family of Flux.2 [dev] and its fine-tunes."""

    name = "flux2"
    label = "Flux.2 [dev]"
    reader = "llm"
    apart: Mapping[str, tuple[str, str]] = MappingProxyType(
        {
            "text_encoder": ("Mistral text encoder", "mistral_3_small_flux2_fp8.safetensors"),
            "vae": _VAE,
        }
    )

    def match(self, header: CheckpointHeader) -> Match | None:
        """Return why the file is a Flux.2 [dev] model, or None when it is not."""
        found = architecture(header.layout)
        if found is None or found.family != self.name:
            return None
        return Match(
            family=self.name,
            variant=found.variant,
            prediction="flow",
            reason=f"{found.label}: {found.reason}",
            refers=MOST_REFERENCES,
            recommended=_DEV,
        )

    def text_recipe(self, header: CheckpointHeader, prefix: str) -> Recipe:
        """Return how to make the reader from the tensors below `prefix`."""
        from sdforge.models.carried_tokenizers import find_tokenizer

        find_tokenizer(header, _MISTRAL)
        return qwen_recipe(header, prefix, role="text_encoder", taps=_DEV_LAYERS)

    def text(
        self, component: Component, memory: MemoryManager, header: CheckpointHeader
    ) -> PromptText:
        """Return what reads prompts."""
        from sdforge.models.carried_tokenizers import Marks, carried_tokenizer, find_tokenizer
        from sdforge.models.flux2_text import DevText

        rows = component.master("model.embed_tokens.weight").holders[0].shape[0]
        marks = Marks("<s>", "</s>", "<pad>")
        source = find_tokenizer(header, _MISTRAL)
        return DevText(component, memory, partial(carried_tokenizer, source, marks, rows))


@lru_cache(maxsize=RECIPES_KEPT)
def _recipe(layout: Layout, prefix: str, is_authors: bool, config: Config) -> Recipe:
    return Recipe(
        role="denoiser",
        layout=layout,
        skeleton=_skeleton(is_authors, config),
        sources=_sources(layout, prefix),
    )


@lru_cache(maxsize=SKELETONS_KEPT)
def _skeleton(is_authors: bool, config: Config) -> Skeleton:
    def make() -> Any:
        from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel

        from sdforge.models.shift_first import ShiftFirst

        module = Flux2Transformer2DModel(**dict(config))
        if is_authors:
            module.norm_out = ShiftFirst(module.norm_out)
        return module

    return skeleton_of(make)


@lru_cache(maxsize=RECIPES_KEPT)
def _sources(layout: Layout, prefix: str) -> Mapping[str, Source]:
    names = layout.under(prefix)
    if _AUTHORS not in names:
        return plain_sources(layout, prefix)
    return flux_sources(layout, prefix, layout.tensors[names[_AUTHORS]].shape[0], FLUX2)
