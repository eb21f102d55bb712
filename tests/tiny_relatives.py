"""Tiny relatives of ControlNets for tests: T2I-Adapters and Control-LoRAs of random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import ControlNetUnionModel, T2IAdapter
from safetensors.torch import save_file

from sdforge.models.adapters.lora_keys import original_unet_name
from tests.tiny import TINY
from tests.tiny_control import original_shapes, random_weights, tiny_config

WIDTHS = tuple(factor * TINY.unet_width for factor in TINY.unet_factors)
Tensors = dict[str, torch.Tensor]


def make_adapter(kind: str = "full_adapter", seed: int = 0, *, grey: bool = False) -> T2IAdapter:
    """Return a random adapter for the tiny checkpoint, whose words are loud enough to be seen."""
    channels = list(WIDTHS[:-1] if kind == "light_adapter" else WIDTHS)
    adapter = T2IAdapter(1 if grey else 3, channels, 2, 8, kind).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in adapter.state_dict().items()}
    adapter.load_state_dict(random_weights(shapes, seed))
    return adapter


def make_union(seed: int = 0, kinds: int = 6) -> ControlNetUnionModel:
    """Return a random union ControlNet for the tiny checkpoint."""
    union = ControlNetUnionModel(
        **tiny_config(),
        addition_time_embed_dim=16,
        conditioning_embedding_out_channels=(4, 8, 16, 16),
        num_control_type=kinds,
        num_trans_channel=TINY.unet_width,
        num_proj_channel=TINY.unet_width,
    ).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in union.state_dict().items()}
    union.load_state_dict(random_weights(shapes, seed))
    return union


def numbered_through(adapter: T2IAdapter) -> Tensors:
    """Return a full adapter's tensors in TencentARC's names: blocks counted over all levels."""
    found: Tensors = {}
    for name, tensor in adapter.adapter.state_dict().items():
        parts = name.split(".")
        if parts[0] != "body":
            found[name] = tensor
        elif parts[2] == "in_conv":
            found[f"body.{2 * int(parts[1])}.in_conv.{parts[3]}"] = tensor
        else:
            number = 2 * int(parts[1]) + int(parts[3])
            found[f"body.{number}.{parts[4]}.{parts[5]}"] = tensor
    return found


def light_names(adapter: T2IAdapter) -> Tensors:
    """Return a light adapter's tensors in TencentARC's names."""
    state = adapter.adapter.state_dict()
    return {name.replace(".resnets.", ".body."): tensor for name, tensor in state.items()}


def control_lora_tensors(
    unet: Mapping[str, torch.Tensor],
    *,
    rank: int = 2,
    controlnet: Mapping[str, tuple[int, ...]] | None = None,
) -> Tensors:
    """Return a Control-LoRA's tensors for a U-Net's weights by diffusers' names.

    Factors of all its matrices and convolutions on the way down; other weights of it whole. The
    hint's head and the zero convolutions are as in `controlnet`, the shapes of one in the original
    layout; None for the tiny checkpoint's.
    """
    generator = torch.Generator().manual_seed(5)
    names = [name for name in unet if not name.startswith(("up_blocks.", "conv_norm_", "conv_out"))]
    original = original_unet_name(name.rpartition(".")[0] for name in unet)
    found: Tensors = {"lora_controlnet": torch.zeros(1)}
    for name in names:
        layer, _, part = name.rpartition(".")
        weight = unet[name]
        if part == "weight" and weight.ndim > 1:
            ones = (1,) * (weight.ndim - 2)
            up = torch.randn(weight.shape[0], rank, *ones, generator=generator)
            down = torch.randn(rank, *weight.shape[1:], generator=generator)
            found[f"{original(layer)}.up"] = up * 0.1
            found[f"{original(layer)}.down"] = down / down[0].numel() ** 0.5
        else:
            found[f"{original(layer)}.{part}"] = weight + 0.01
    others = {
        name: shape
        for name, shape in (controlnet or original_shapes()).items()
        if name.startswith(("input_hint_block", "zero_convs", "middle_block_out"))
    }
    return found | random_weights(others)


def saved(tensors: Tensors, path: Path) -> Path:
    """Write tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: one.contiguous() for name, one in tensors.items()}, path)
    return path
