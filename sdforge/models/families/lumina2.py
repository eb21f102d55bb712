"""Lumina 2 (Lumina-Image 2.0) and fine-tunes: one stream of text and picture, Gemma 2 as reader.

In the names of its authors (query, key and value in one matrix) or of diffusers; the transformer
alone or with all parts; Flux's VAE. Gemma's tokenizer comes with the text encoder, see
`models.carried_tokenizers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
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
    plain_sources,
    skeleton_of,
)
from sdforge.models.families.gemmas import gemma_recipe
from sdforge.models.families.lumina2_keys import lumina2_sources
from sdforge.models.families.one_reader import OneReader
from sdforge.models.families.sd_shapes import Shapes
from sdforge.models.layout import Layout

if TYPE_CHECKING:
    from sdforge.memory.component import Component
    from sdforge.memory.manager import MemoryManager
    from sdforge.models.flow_denoiser import FlowDenoiser
    from sdforge.models.skeleton import Skeleton
    from sdforge.models.text_encoder import PromptText

_READER = "Gemma 2"
_USUAL = Recommended(width=1024, height=1024, steps=30, cfg_scale=4.0, sampler="Euler")
_SIGMA_SHIFT = 6.0
_USUAL_TOKENS = 128
_AUTHORS = "cap_embedder.1.weight"


class Lumina2(OneReader):
    """The family of Lumina-Image 2.0."""

    name = "lumina2"
    label = "Lumina 2"
    reader = "gemma2"
    text_width = "cap_feat_dim"
    apart: Mapping[str, tuple[str, str]] = MappingProxyType(
        {
            "text_encoder": ("Gemma 2 text encoder", "gemma_2_2b_fp16.safetensors"),
            "vae": ("VAE", "ae.safetensors"),
        }
    )

    def match(self, header: CheckpointHeader) -> Match | None:
        """Return why the file is a Lumina 2 model, or None when it is not."""
        found = architecture(header.layout)
        if found is None or found.family != self.name:
            return None
        return Match(
            family=self.name,
            variant=found.variant,
            prediction="flow",
            reason=f"{found.label}: {found.reason}",
            recommended=_USUAL,
        )

    def transformer_recipe(self, header: CheckpointHeader, prefix: str) -> Recipe:
        """Return how to make the denoiser from the tensors below `prefix`."""
        sources = _sources(header.layout, prefix)
        shapes = Shapes(header, {name: one.shape for name, one in sources.items()}, "transformer")
        width, numbers = shapes.dims("x_embedder.weight", 2)
        head = shapes.dims("layers.0.attn.norm_q.weight", 1)[0]
        keys = shapes.dims("layers.0.attn.to_k.weight", 2)[0]
        if width % head or keys % head or width % keys or head % 6:
            raise shapes.misfit(f"its widths {width} and {keys} cannot be cut into heads of {head}")
        config: Config = (
            ("in_channels", numbers // 4),
            ("hidden_size", width),
            ("num_layers", shapes.count(lambda layer: f"layers.{layer}.norm2.weight")),
            (
                "num_refiner_layers",
                shapes.count(lambda layer: f"noise_refiner.{layer}.norm2.weight"),
            ),
            ("num_attention_heads", width // head),
            ("num_kv_heads", keys // head),
            # A width of its own, which diffusers rounds a tenth of its usual one up to.
            ("multiple_of", shapes.dims("layers.0.feed_forward.linear_1.weight", 2)[0]),
            ("ffn_dim_multiplier", 0.1),
            ("cap_feat_dim", shapes.dims("time_caption_embed.caption_embedder.1.weight", 2)[1]),
            ("axes_dim_rope", (head // 3,) * 3),
        )
        return _recipe(header.layout, prefix, config)

    def text_recipe(self, header: CheckpointHeader, prefix: str) -> Recipe:
        """Return how to make the reader from the tensors below `prefix`."""
        from sdforge.models.carried_tokenizers import find_tokenizer

        find_tokenizer(header, _READER)
        return gemma_recipe(header, prefix, role="text_encoder")

    def denoiser(self, component: Component) -> FlowDenoiser:
        """Return what calls the denoiser."""
        from sdforge.models.flow_denoiser import FlowDenoiser
        from sdforge.models.lumina2_call import call_lumina2

        return FlowDenoiser(
            component,
            call_lumina2,
            architecture=self.name,
            shift=_SIGMA_SHIFT,
            usual_tokens=_USUAL_TOKENS,
        )

    def text(
        self, component: Component, memory: MemoryManager, header: CheckpointHeader
    ) -> PromptText:
        """Return what reads prompts."""
        from sdforge.models.carried_tokenizers import Marks, carried_tokenizer, find_tokenizer
        from sdforge.models.lumina2_call import Lumina2Text

        rows = component.master("model.embed_tokens.weight").holders[0].shape[0]
        marks = Marks("<bos>", "<eos>", "<pad>")
        source = find_tokenizer(header, _READER)
        return Lumina2Text(component, memory, partial(carried_tokenizer, source, marks, rows))


@lru_cache(maxsize=RECIPES_KEPT)
def _recipe(layout: Layout, prefix: str, config: Config) -> Recipe:
    return Recipe(
        role="denoiser", layout=layout, skeleton=_skeleton(config), sources=_sources(layout, prefix)
    )


@lru_cache(maxsize=SKELETONS_KEPT)
def _skeleton(config: Config) -> Skeleton:
    def make() -> Any:
        from diffusers.models.transformers.transformer_lumina2 import Lumina2Transformer2DModel

        from sdforge.models.lumina2_call import LuminaPlaces

        module = Lumina2Transformer2DModel(**dict(config))
        module.rope_embedder = LuminaPlaces(dict(config)["axes_dim_rope"])
        return module

    return skeleton_of(make)


@lru_cache(maxsize=RECIPES_KEPT)
def _sources(layout: Layout, prefix: str) -> Mapping[str, Source]:
    names = layout.under(prefix)
    if _AUTHORS not in names:
        return plain_sources(layout, prefix)
    return lumina2_sources(layout, prefix, layout.tensors[names[_AUTHORS]].shape[0])
