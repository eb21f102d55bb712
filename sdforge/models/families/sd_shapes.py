"""Configurations of Stable Diffusion's networks, read off the shapes of their tensors.

Any width of the layout works, so a model a fifth as wide as SD 1.5 needs no configuration file.
What shapes cannot tell (attention heads, groups of normalisation) follows a rule that gives SD
1.5's numbers for SD 1.5; metadata may say otherwise. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.layout import Layout

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer."
VAE = "first_stage_model."
# In checkpoints of latent diffusion, in those put together of parts, and in a file of its own.
_VAES = (VAE, "vae.", "")
# SD 1.x cuts every attention layer of its U-Net into 8 heads, whatever its width; later ones into
# heads of 64.
UNET_HEADS = 8
HEAD_WIDTH = 64
CLIP_HEAD_WIDTH = 64
# SDXL embeds each number of its size condition in so many.
SIZE_WIDTH = 256
_UNET_GROUPS = "sdforge.unet_norm_groups"
_VAE_GROUPS = "sdforge.vae_norm_groups"


@dataclass(frozen=True)
class _Level:
    """Residual blocks at one resolution."""

    channels: int
    blocks: int
    depth: int


class Shapes:
    """Shapes of one part of a file by its own names; a missing one is an error that names it."""

    def __init__(
        self, header: CheckpointHeader, shapes: Mapping[str, tuple[int, ...]], part: str
    ) -> None:
        """Take the shapes by own names; `part` is what errors call it. Raises `MissingModel`."""
        self.file = header.path.name
        self.part = part
        self._shapes = shapes
        if not shapes:
            raise MissingModel(f"{self.file} holds no {part}")

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def dims(self, name: str, count: int) -> tuple[int, ...]:
        """Return the shape of a tensor that must be there with `count` dimensions."""
        shape = self._shapes.get(name)
        if shape is None:
            raise MissingModel(f"the {self.part} in {self.file} is incomplete: {name} is missing")
        if len(shape) != count or 0 in shape:
            raise self.misfit(f"{name} has the shape {list(shape)}")
        return shape

    def any_dims(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor that must be there."""
        return self.dims(name, len(self._shapes.get(name, ())))

    def misfit(self, what: str) -> UnsupportedCheckpoint:
        """Return the error for shapes that do not fit together."""
        return UnsupportedCheckpoint(f"the {self.part} in {self.file} cannot be run: {what}")

    def count(self, name: Callable[[int], str]) -> int:
        """Return how many of name(0), name(1), … there are in a row."""
        number = 0
        while name(number) in self:
            number += 1
        return number


def vae_names(layout: Layout) -> Mapping[str, str]:
    """Return the tensors of the VAE, own name → name in the file; alone or in a checkpoint."""
    for prefix in _VAES:
        if layout.under(f"{prefix}decoder.conv_in."):
            return layout.under(prefix)
    return layout.under(VAE)


@lru_cache(maxsize=8)
def text_names(layout: Layout) -> Mapping[str, str]:
    """Return the text encoder's tensors, own name (without `text_model.`) → name in the file."""
    return {
        name.removeprefix("text_model."): key
        for name, key in layout.under(TEXT).items()
        if not name.endswith("position_ids")
    }


def context_width(header: CheckpointHeader) -> int | None:
    """Return the width of the text states that the U-Net attends to, None without attention."""
    for key in header.under(UNET).values():
        if key.endswith("attn2.to_k.weight"):
            shape = header.tensors[key].shape
            if len(shape) == 2:
                return shape[1]
    return None


def unet_config(header: CheckpointHeader) -> dict[str, Any]:
    """Return the arguments of diffusers' `UNet2DConditionModel`.

    Raises:
        MissingModel: tensors are missing.
        UnsupportedCheckpoint: shapes do not fit together.
    """
    shapes = Shapes(header, _shapes_of(header, header.under(UNET)), "U-Net")
    base, in_channels, _, _ = shapes.dims("input_blocks.0.0.weight", 4)
    levels = _unet_levels(shapes)
    widths = tuple(level.channels for level in levels)
    if len({level.blocks for level in levels}) != 1:
        raise shapes.misfit("its levels have different numbers of blocks")
    if widths[0] != base or shapes.dims("time_embed.0.weight", 2) != (4 * base, base):
        raise shapes.misfit(f"its first level is not as wide as its input ({base})")
    middle = _depth(shapes, "middle_block.1")
    if not middle:
        raise shapes.misfit("its middle has no attention")
    linear = _is_linear(shapes)
    heads = tuple(max(1, width // HEAD_WIDTH) if linear else UNET_HEADS for width in widths)
    if any(width % count for width, count in zip(widths, heads, strict=True)):
        raise shapes.misfit(f"its widths {widths} cannot be cut into {heads} heads")
    # A level without attention has no depth; the last one's is also the middle's.
    depths = (*(level.depth or 1 for level in levels[:-1]), middle)
    if levels[-1].depth not in (0, middle):
        raise shapes.misfit(
            f"its last level has {levels[-1].depth} transformers in a row, its middle {middle}"
        )
    config: dict[str, Any] = {
        "in_channels": in_channels,
        "out_channels": shapes.dims("out.2.weight", 4)[0],
        "block_out_channels": widths,
        "layers_per_block": levels[0].blocks,
        "down_block_types": tuple(
            "CrossAttnDownBlock2D" if level.depth else "DownBlock2D" for level in levels
        ),
        "up_block_types": tuple(
            "CrossAttnUpBlock2D" if level.depth else "UpBlock2D" for level in reversed(levels)
        ),
        "cross_attention_dim": context_width(header),
        "attention_head_dim": heads if linear else UNET_HEADS,
        "norm_num_groups": _groups(header, _UNET_GROUPS, widths, shapes),
    }
    if linear:
        config["use_linear_projection"] = True
    if set(depths) != {1}:
        config["transformer_layers_per_block"] = depths
    if "label_emb.0.0.weight" in shapes:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": SIZE_WIDTH,
            "projection_class_embeddings_input_dim": shapes.dims("label_emb.0.0.weight", 2)[1],
        }
    return config


def _shapes_of(header: CheckpointHeader, names: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    return {name: header.tensors[key].shape for name, key in names.items()}


def _is_linear(shapes: Shapes) -> bool:
    """Tell SD 2's and SDXL's U-Nets from SD 1.x's, which project with 1×1 convolutions."""
    return len(shapes.any_dims("middle_block.1.proj_in.weight")) == 2


def _depth(shapes: Shapes, place: str) -> int:
    """Return how many transformer blocks a place has in a row."""
    return shapes.count(lambda number: f"{place}.transformer_blocks.{number}.norm1.weight")


def _unet_levels(shapes: Shapes) -> list[_Level]:
    levels: list[_Level] = []
    channels, blocks, depth = 0, 0, 0
    index = 1
    while True:
        block = f"input_blocks.{index}."
        index += 1
        if f"{block}0.in_layers.2.weight" in shapes:
            channels = shapes.dims(f"{block}0.in_layers.2.weight", 4)[0]
            blocks += 1
            depth = _depth(shapes, f"{block}1")
        elif blocks:
            levels.append(_Level(channels, blocks, depth))
            blocks = 0
        if f"{block}0.in_layers.2.weight" not in shapes and f"{block}0.op.weight" not in shapes:
            break
    if not levels:
        raise MissingModel(f"the U-Net in {shapes.file} is incomplete: it has no input blocks")
    return levels


def vae_config(header: CheckpointHeader) -> dict[str, Any]:
    """Return the arguments of diffusers' `AutoencoderKL`, from a VAE alone or in a checkpoint.

    Raises:
        MissingModel: tensors are missing.
        UnsupportedCheckpoint: shapes do not fit together.
    """
    shapes = Shapes(header, _shapes_of(header, vae_names(header.layout)), "VAE")
    base, in_channels, _, _ = shapes.dims("encoder.conv_in.weight", 4)
    level_count = shapes.count(lambda level: f"encoder.down.{level}.block.0.conv1.weight")
    widths = tuple(
        shapes.dims(f"encoder.down.{level}.block.0.conv1.weight", 4)[0]
        for level in range(level_count)
    )
    if not widths:
        raise MissingModel(f"the VAE in {shapes.file} is incomplete: its encoder has no blocks")
    return {
        "in_channels": in_channels,
        "out_channels": shapes.dims("decoder.conv_out.weight", 4)[0],
        "latent_channels": shapes.dims("decoder.conv_in.weight", 4)[1],
        "block_out_channels": widths,
        "layers_per_block": shapes.count(
            lambda block: f"encoder.down.0.block.{block}.conv1.weight"
        ),
        "down_block_types": ("DownEncoderBlock2D",) * level_count,
        "up_block_types": ("UpDecoderBlock2D",) * level_count,
        "norm_num_groups": _groups(header, _VAE_GROUPS, (base, *widths), shapes),
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "mid_block_add_attention": "decoder.mid.attn_1.q.weight" in shapes,
    }


def _groups(header: CheckpointHeader, key: str, widths: tuple[int, ...], shapes: Shapes) -> int:
    """Return the number of normalisation groups: metadata, else 32 or a quarter of the width.

    At SD's fixed 32 groups a narrow network would normalise single channels.
    """
    said = header.metadata.get(key, "").strip()
    groups = int(said) if said.isdecimal() and len(said) < 6 else min(32, widths[0] // 4)
    if groups < 1 or any(width % groups for width in widths):
        raise shapes.misfit(f"its widths {widths} cannot be cut into {groups} groups")
    return groups
