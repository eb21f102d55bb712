"""Tiny real ControlNets for tests: random weights, beside the tiny checkpoint, in both layouts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sdforge.models.families.sd_keys import Sizes, unet_shapes
from tests.tiny import TINY

_DOWN = ("time_embed.", "input_blocks.", "middle_block.")


def tiny_config(sizes: Sizes = TINY) -> dict[str, Any]:
    """Return the arguments of diffusers' class, written out by hand."""
    widths = tuple(factor * sizes.unet_width for factor in sizes.unet_factors)
    return {
        "block_out_channels": widths,
        "cross_attention_dim": sizes.text_width,
        "attention_head_dim": 8,
        "norm_num_groups": sizes.unet_width // 4,
    }


def original_shapes(sizes: Sizes = TINY) -> dict[str, tuple[int, ...]]:
    """Return name → shape of the original layout, without prefix."""
    shapes = {name: shape for name, shape in unet_shapes(sizes).items() if name.startswith(_DOWN)}
    width = sizes.unet_width
    hints = [(3, 16), (16, 16), (16, 32), (32, 32), (32, 96), (96, 96), (96, 256), (256, width)]
    for number, (before, after) in enumerate(hints):
        shapes[f"input_hint_block.{2 * number}.weight"] = (after, before, 3, 3)
        shapes[f"input_hint_block.{2 * number}.bias"] = (after,)
    skips = [width]
    for level, factor in enumerate(sizes.unet_factors):
        count = sizes.blocks + (level != len(sizes.unet_factors) - 1)
        skips += [factor * width] * count
    for number, channels in enumerate(skips):
        shapes[f"zero_convs.{number}.0.weight"] = (channels, channels, 1, 1)
        shapes[f"zero_convs.{number}.0.bias"] = (channels,)
    shapes["middle_block_out.0.weight"] = (skips[-1], skips[-1], 1, 1)
    shapes["middle_block_out.0.bias"] = (skips[-1],)
    return shapes


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Return weights that keep signals near variance 1; nothing is zero, also not zero_convs."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        is_norm = len(shape) == 1 and name.endswith("weight")
        inputs = torch.Size(shape[1:]).numel()
        weights[name] = 1 + values * 0.1 if is_norm else values * 0.7 / max(inputs, 1) ** 0.5
        if len(shape) == 1 and not is_norm:
            weights[name] = values * 0.02
    return weights


def make_controlnet(
    path: Path,
    sizes: Sizes = TINY,
    *,
    seed: int = 0,
    prefix: str = "control_model.",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a random ControlNet in the original layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = random_weights(original_shapes(sizes), seed)
    save_file(
        {prefix + name: one.contiguous() for name, one in weights.items()},
        path,
        dict(metadata or {}),
    )
    return path
