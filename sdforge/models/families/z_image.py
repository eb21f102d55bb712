"""Z-Image and Z-Image-Turbo: one stream of text and picture, Qwen3 as reader, Flux's VAE.

In the names of its authors (query, key and value in one matrix) or of diffusers; the transformer
alone or with all parts. Turbo draws in eight steps without guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    skeleton_of,
)
from sdforge.models.families.fast_kinds import fast_kind, signs_of
from sdforge.models.families.one_reader import OneReader
from sdforge.models.families.qwens import qwen_recipe
from sdforge.models.families.sd_shapes import Shapes
from sdforge.models.families.z_image_keys import FUSED, PARTS, PLACES, STARTS
from sdforge.models.layout import Layout

if TYPE_CHECKING:
    from sdforge.memory.component import Component
    from sdforge.memory.manager import MemoryManager
    from sdforge.models.flow_denoiser import FlowDenoiser
    from sdforge.models.skeleton import Skeleton
    from sdforge.models.text_encoder import PromptText

_SIDE = 1024
_SIGMA_SHIFT = 3.0
_TURBO = Recommended(width=_SIDE, height=_SIDE, steps=8, cfg_scale=1.0, sampler="Euler")
_USUAL = Recommended(width=_SIDE, height=_SIDE, steps=28, cfg_scale=4.0, sampler="Euler")
_USUAL_TOKENS = 128


class ZImage(OneReader):
    """The family of Z-Image and Z-Image-Turbo."""

    name = "zimage"
    label = "Z-Image"
    reader = "qwen3"
    text_width = "cap_feat_dim"
    apart: Mapping[str, tuple[str, str]] = MappingProxyType(
        {
            "text_encoder": ("Qwen3 text encoder", "qwen_3_4b.safetensors"),
            "vae": ("VAE", "ae.safetensors"),
        }
    )

    def match(self, header: CheckpointHeader) -> Match | None:
        """Return why the file is a Z-Image model, or None when it is not."""
        found = architecture(header.layout)
        if found is None or found.family != self.name:
            return None
        kind = fast_kind(header.path.stem, header.metadata)
        return Match(
            family=self.name,
            variant="turbo" if kind else "standard",
            prediction="flow",
            reason=f"{found.label}: {found.reason}" + signs_of(kind),
            recommended=_TURBO if kind else _USUAL,
        )

    def transformer_recipe(self, header: CheckpointHeader, prefix: str) -> Recipe:
        """Return how to make the denoiser from the tensors below `prefix`."""
        sources = _sources(header.layout, prefix)
        shapes = Shapes(header, {name: one.shape for name, one in sources.items()}, "transformer")
        width, numbers = shapes.dims("all_x_embedder.2-1.weight", 2)
        head = shapes.dims("layers.0.attention.norm_q.weight", 1)[0]
        keys = shapes.dims("layers.0.attention.to_k.weight", 2)[0]
        if width % head or keys % head or head % 16:
            raise shapes.misfit(f"its widths {width} and {keys} cannot be cut into heads of {head}")
        config: Config = (
            ("in_channels", numbers // 4),
            ("dim", width),
            ("n_layers", shapes.count(lambda layer: f"layers.{layer}.attention_norm1.weight")),
            (
                "n_refiner_layers",
                shapes.count(lambda layer: f"noise_refiner.{layer}.attention_norm1.weight"),
            ),
            ("n_heads", width // head),
            ("n_kv_heads", keys // head),
            ("cap_feat_dim", shapes.dims("cap_embedder.1.weight", 2)[1]),
            ("axes_dims", _axes(head)),
        )
        return _recipe(header.layout, prefix, config)

    def text_recipe(self, header: CheckpointHeader, prefix: str) -> Recipe:
        """Return how to make the reader from the tensors below `prefix`."""
        return qwen_recipe(header, prefix, role="text_encoder")

    def denoiser(self, component: Component) -> FlowDenoiser:
        """Return what calls the denoiser."""
        from sdforge.models.flow_denoiser import FlowDenoiser
        from sdforge.models.z_image_call import call_z_image

        return FlowDenoiser(
            component,
            call_z_image,
            architecture=self.name,
            shift=_SIGMA_SHIFT,
            usual_tokens=_USUAL_TOKENS,
        )

    def text(
        self, component: Component, memory: MemoryManager, header: CheckpointHeader
    ) -> PromptText:
        """Return what reads prompts."""
        from sdforge.models.tokenizers import qwen_tokenizer
        from sdforge.models.z_image_text import ZImageText

        return ZImageText(component, memory, qwen_tokenizer)


def _axes(head: int) -> tuple[int, int, int]:
    """Return what of a head's width each of a token's three places gets: 32, 48, 48 of 128."""
    first = head // 4
    return first, (head - first) // 2, (head - first) // 2


@lru_cache(maxsize=RECIPES_KEPT)
def _recipe(layout: Layout, prefix: str, config: Config) -> Recipe:
    return Recipe(
        role="denoiser", layout=layout, skeleton=_skeleton(config), sources=_sources(layout, prefix)
    )


@lru_cache(maxsize=SKELETONS_KEPT)
def _skeleton(config: Config) -> Skeleton:
    def make() -> Any:
        from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

        return ZImageTransformer2DModel(**dict(config))

    return skeleton_of(make)


@lru_cache(maxsize=RECIPES_KEPT)
def _sources(layout: Layout, prefix: str) -> dict[str, Source]:
    found: dict[str, Source] = {}
    for name, key in layout.under(prefix).items():
        shape = layout.tensors[key].shape
        if FUSED in name:
            rows = shape[0] // 3
            for place, part in enumerate(PARTS):
                target = name.replace(FUSED, f".attention.{part}.")
                found[target] = Source(key, (rows, *shape[1:]), place * rows)
            continue
        for start, other in STARTS.items():
            if name.startswith(start):
                name = other + name.removeprefix(start)
        for place_name, other in PLACES.items():
            name = name.replace(place_name, other)
        found[name] = Source(key, shape)
    return found
