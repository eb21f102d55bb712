"""Qwen-Image: text and picture in two streams, Qwen2.5-VL as reader, the VAE of Wan.

All files name the transformer's tensors as diffusers does, alone or with all parts. Wu et al. 2025,
arXiv:2508.02324.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sdforge.core.request import Recommended
from sdforge.models.architectures import Architecture, architecture
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Match, Recipe
from sdforge.models.families.building import (
    RECIPES_KEPT,
    SKELETONS_KEPT,
    Config,
    plain_sources,
    skeleton_of,
)
from sdforge.models.families.fast_kinds import fast_kind, signs_of
from sdforge.models.families.flux import rotation_axes
from sdforge.models.families.one_reader import OneReader
from sdforge.models.families.qwens import qwen_recipe
from sdforge.models.families.sd_shapes import Shapes
from sdforge.models.families.video_vaes import video_vae_recipe
from sdforge.models.layout import Layout
from sdforge.models.parts import Part

if TYPE_CHECKING:
    from sdforge.memory.component import Component
    from sdforge.memory.manager import MemoryManager
    from sdforge.models.flow_denoiser import FlowDenoiser
    from sdforge.models.skeleton import Skeleton
    from sdforge.models.text_encoder import PromptText
    from sdforge.models.vae import Vae

LATENT_CHANNELS, LATENT_DOWNSCALE = 16, 8
_SIDE = 1328
_STEPS, _CFG_SCALE = 20, 2.5
# What ComfyUI's published workflow sets (docs/decisions/0136).
_SIGMA_SHIFT = 3.1
_USUAL_TOKENS = 128
_LAYERED = "time_text_embed.addition_t_embedding.weight"


class QwenImage(OneReader):
    """The family of Qwen-Image."""

    name = "qwen-image"
    # What `parts.py` calls its transformer, which the editing family has as well.
    denoiser_kind = "qwen-image"
    label = "Qwen-Image"
    reader = "qwen2.5-vl"
    vae_kind = "wan"
    apart: Mapping[str, tuple[str, str]] = MappingProxyType(
        {
            "text_encoder": ("Qwen2.5-VL text encoder", "qwen_2.5_vl_7b_fp8_scaled.safetensors"),
            "vae": ("VAE", "qwen_image_vae.safetensors"),
        }
    )

    def match(self, header: CheckpointHeader) -> Match | None:
        """Return why the file is a Qwen-Image model, or None when it is not."""
        from sdforge.models.families.qwen_image_edit import edit_kind

        found = architecture(header.layout)
        if found is None or found.family != self.denoiser_kind or edit_kind(header) is not None:
            return None
        return self.match_of(header, found)

    def match_of(self, header: CheckpointHeader, found: Architecture) -> Match:
        """Return why a file of this structure is of the family."""
        variant, problem = _variant(header, found)
        kind = fast_kind(header.path.stem, header.metadata)
        return Match(
            family=self.name,
            variant=kind.name if kind and problem is None else variant,
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

    def role_of(self, part: Part) -> str | None:
        """Return what a network of any file is to this family, None for no use."""
        if part.role == "denoiser":
            return "denoiser" if part.kind == self.denoiser_kind else None
        return super().role_of(part)

    def takes_clean(self, header: CheckpointHeader) -> bool:
        """Whether the patches of pictures that the denoiser is shown count as free of noise."""
        return False

    def transformer_recipe(self, header: CheckpointHeader, prefix: str) -> Recipe:
        """Return how to make the denoiser from the tensors below `prefix`."""
        sources = plain_sources(header.layout, prefix)
        shapes = Shapes(header, {name: one.shape for name, one in sources.items()}, "transformer")
        width, numbers = shapes.dims("img_in.weight", 2)
        head = shapes.dims("transformer_blocks.0.attn.norm_q.weight", 1)[0]
        if width % head or head % 16:
            raise shapes.misfit(f"its width {width} cannot be cut into heads of {head}")
        config: Config = (
            ("in_channels", numbers),
            ("out_channels", shapes.dims("proj_out.weight", 2)[0] // 4),
            (
                "num_layers",
                shapes.count(lambda number: f"transformer_blocks.{number}.img_mod.1.weight"),
            ),
            ("attention_head_dim", head),
            ("num_attention_heads", width // head),
            ("joint_attention_dim", shapes.dims("txt_in.weight", 2)[1]),
            ("axes_dims_rope", rotation_axes(head)),
            ("zero_cond_t", self.takes_clean(header)),
        )
        return _recipe(header.layout, prefix, config)

    def text_recipe(self, header: CheckpointHeader, prefix: str) -> Recipe:
        """Return how to make the reader from the tensors below `prefix`."""
        return qwen_recipe(header, prefix, role="text_encoder", is_whole=True)

    def denoiser(self, component: Component) -> FlowDenoiser:
        """Return what calls the denoiser."""
        return self.denoiser_of(component)

    def denoiser_of(self, component: Component, *, sees: str = "") -> FlowDenoiser:
        """Return the same for a network that is shown something beside the noise."""
        from sdforge.models.flow_denoiser import FlowDenoiser
        from sdforge.models.qwen_image_call import call_qwen_image

        return FlowDenoiser(
            component,
            call_qwen_image,
            architecture=self.denoiser_kind,
            shift=_SIGMA_SHIFT,
            usual_tokens=_USUAL_TOKENS,
            sees=sees,
        )

    def text(
        self, component: Component, memory: MemoryManager, header: CheckpointHeader
    ) -> PromptText:
        """Return what reads prompts."""
        from sdforge.models.qwen_image_call import QwenImageText
        from sdforge.models.tokenizers import qwen_tokenizer

        return QwenImageText(component, memory, qwen_tokenizer)

    def vae_recipe(self, header: CheckpointHeader, prefix: str) -> Recipe:
        """Return how to make the VAE from the tensors below `prefix`."""
        return video_vae_recipe(header, prefix)

    def vae(self, component: Component, memory: MemoryManager) -> Vae:
        """Return what encodes and decodes; the VAE itself gives latents of unit variance."""
        from sdforge.models.bundle import LatentFormat
        from sdforge.models.vae import Vae

        plain = LatentFormat(channels=LATENT_CHANNELS, downscale=LATENT_DOWNSCALE, scale=1.0)
        return Vae(component, memory, plain, trace="vae-qwen")


def _variant(header: CheckpointHeader, found: Architecture) -> tuple[str, str | None]:
    """Return the variant, and why it cannot run."""
    variant = found.variant
    if any(key.endswith(_LAYERED) for key in header.tensors):
        variant = "layered"
    if variant == "standard":
        return variant, None
    return variant, f"Qwen-Image {variant} is recognised but not supported in this version"


@lru_cache(maxsize=RECIPES_KEPT)
def _recipe(layout: Layout, prefix: str, config: Config) -> Recipe:
    return Recipe(
        role="denoiser",
        layout=layout,
        skeleton=_skeleton(config),
        sources=plain_sources(layout, prefix),
    )


@lru_cache(maxsize=SKELETONS_KEPT)
def _skeleton(config: Config) -> Skeleton:
    def make() -> Any:
        from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel

        from sdforge.models.qwen_image_call import Places

        module = QwenImageTransformer2DModel(**dict(config))
        module.pos_embed = Places(dict(config)["axes_dims_rope"])
        return module

    return skeleton_of(make)
