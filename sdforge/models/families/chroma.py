"""Chroma: Flux's blocks, modulated by one small network instead of a layer in each; T5 alone.

In the names of its authors or of diffusers, alone or with all parts; the VAE is Flux's. Unlike Flux
it is guided by a negative prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
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
from sdforge.models.families.fast_kinds import fast_kind, signs_of
from sdforge.models.families.flux import rotation_axes
from sdforge.models.families.flux_keys import GUIDE, GUIDE_LAYERS, flux_sources
from sdforge.models.families.one_reader import OneReader
from sdforge.models.families.sd_shapes import Shapes
from sdforge.models.families.t5s import t5_recipe
from sdforge.models.layout import Layout

if TYPE_CHECKING:
    import torch

    from sdforge.memory.component import Component
    from sdforge.memory.manager import MemoryManager
    from sdforge.models.flow_denoiser import FlowDenoiser
    from sdforge.models.skeleton import Skeleton
    from sdforge.models.text_encoder import PromptText

_SIDE = 1024
_STEPS, _CFG_SCALE = 26, 4.0
# Forge's: Flux's rule of shifting with its exponent fixed at 1 (docs/decisions/0135).
_SIGMA_SHIFT = math.e
_USUAL_TOKENS = 128
_GUIDE_NAMES = {**GUIDE_LAYERS, ".scale": ".weight"}


class Chroma(OneReader):
    """The family of Chroma."""

    name = "chroma"
    label = "Chroma"
    reader = "t5"
    apart: Mapping[str, tuple[str, str]] = MappingProxyType(
        {
            "text_encoder": ("T5", "t5xxl_fp8_e4m3fn.safetensors"),
            "vae": ("VAE", "ae.safetensors"),
        }
    )

    def match(self, header: CheckpointHeader) -> Match | None:
        """Return why the file is a Chroma model, or None when it is not."""
        found = architecture(header.layout)
        if found is None or found.family != self.name:
            return None
        kind = fast_kind(header.path.stem, header.metadata)
        problem = None
        if found.variant != "standard":
            problem = f"{found.label} is recognised but not supported in this version"
        return Match(
            family=self.name,
            variant=kind.name if kind and problem is None else found.variant,
            prediction="flow",
            reason=f"{found.label}: {found.reason}" + signs_of(kind),
            problem=problem,
            recommended=Recommended(
                width=_SIDE,
                height=_SIDE,
                steps=kind.recommended.steps if kind else _STEPS,
                cfg_scale=1.0 if kind else _CFG_SCALE,
                sampler="Euler",
            ),
        )

    def transformer_recipe(self, header: CheckpointHeader, prefix: str) -> Recipe:
        """Return how to make the denoiser from the tensors below `prefix`."""
        sources = _sources(header.layout, prefix)
        shapes = Shapes(header, {name: one.shape for name, one in sources.items()}, "transformer")
        width, channels = shapes.dims("x_embedder.weight", 2)
        head = shapes.dims("transformer_blocks.0.attn.norm_q.weight", 1)[0]
        if width % head or head % 16:
            raise shapes.misfit(f"its width {width} cannot be cut into heads of {head}")
        hidden, numbers = shapes.dims(f"{GUIDE}in_proj.weight", 2)
        config: Config = (
            ("in_channels", channels),
            ("out_channels", shapes.dims("proj_out.weight", 2)[0]),
            (
                "num_layers",
                shapes.count(lambda number: f"transformer_blocks.{number}.attn.to_q.weight"),
            ),
            (
                "num_single_layers",
                shapes.count(lambda number: f"single_transformer_blocks.{number}.attn.to_q.weight"),
            ),
            ("attention_head_dim", head),
            ("num_attention_heads", width // head),
            ("joint_attention_dim", shapes.dims("context_embedder.weight", 2)[1]),
            ("axes_dims_rope", rotation_axes(head)),
            ("approximator_num_channels", numbers),
            ("approximator_hidden_dim", hidden),
            ("approximator_layers", shapes.count(lambda number: f"{GUIDE}norms.{number}.weight")),
        )
        return _recipe(header.layout, prefix, config)

    def text_recipe(self, header: CheckpointHeader, prefix: str) -> Recipe:
        """Return how to make the reader from the tensors below `prefix`."""
        return t5_recipe(header, prefix, role="text_encoder")

    def denoiser(self, component: Component) -> FlowDenoiser:
        """Return what calls the denoiser."""
        from sdforge.models.chroma_call import call_chroma
        from sdforge.models.flow_denoiser import FlowDenoiser

        return FlowDenoiser(
            component,
            call_chroma,
            architecture=self.name,
            shift=_SIGMA_SHIFT,
            usual_tokens=_USUAL_TOKENS,
        )

    def text(
        self, component: Component, memory: MemoryManager, header: CheckpointHeader
    ) -> PromptText:
        """Return what reads prompts."""
        from sdforge.models.chroma_call import ChromaText
        from sdforge.models.flux_text import T5Text
        from sdforge.models.tokenizers import t5_tokenizer

        return ChromaText(T5Text(component, memory, t5_tokenizer, least=None))


@lru_cache(maxsize=RECIPES_KEPT)
def _recipe(layout: Layout, prefix: str, config: Config) -> Recipe:
    said = dict(config)
    return Recipe(
        role="denoiser",
        layout=layout,
        skeleton=_skeleton(config),
        sources=_sources(layout, prefix),
        buffers={
            "time_text_embed.mod_proj": _numbers_of_modulations(
                3 * said["num_single_layers"] + 12 * said["num_layers"] + 2,
                said["approximator_num_channels"],
            )
        },
    )


def _numbers_of_modulations(count: int, width: int) -> Callable[[], torch.Tensor]:
    """Return what makes the table that tells the small network which modulation is asked for."""

    def make() -> torch.Tensor:
        import torch
        from diffusers.models.embeddings import get_timestep_embedding

        numbers = torch.arange(count) * 1000
        return get_timestep_embedding(
            numbers, width // 2, flip_sin_to_cos=True, downscale_freq_shift=0
        )

    return make


@lru_cache(maxsize=SKELETONS_KEPT)
def _skeleton(config: Config) -> Skeleton:
    def make() -> Any:
        from diffusers.models.transformers.transformer_chroma import ChromaTransformer2DModel

        return ChromaTransformer2DModel(**dict(config))

    return skeleton_of(make)


@lru_cache(maxsize=RECIPES_KEPT)
def _sources(layout: Layout, prefix: str) -> Mapping[str, Source]:
    names = layout.under(prefix)
    if "img_in.weight" not in names:
        return plain_sources(layout, prefix)
    first = names["img_in.weight"]
    found = flux_sources(layout, prefix, layout.tensors[first].shape[0])
    for name, key in names.items():
        if name.startswith(GUIDE):
            for own, other in _GUIDE_NAMES.items():
                name = name.replace(own, other)
            found[name] = Source(key, layout.tensors[key].shape)
    return found
