"""ControlNets of Flux.1 and Qwen-Image: transformers of a few blocks, in the layout of diffusers.

InstantX's, Shakker's and jasperai's are such. They see the picture as latents. XLabs' see it
otherwise and are refused by name; so are those that are shown a mask as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.adapters.controlnet_shapes import transformer_family
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.flux import rotation_axes
from sdforge.models.families.sd_shapes import Shapes
from sdforge.models.qwen_image_call import Places

# Numbers of a union's kinds, as InstantX gave them (canny, tile, depth, blur, pose, grey, low
# quality); by the names that units have for them.
_MODES = {"Hard Edge": 0, "Tile": 1, "Depth": 2, "OpenPose": 4}


def transformer_control(header: CheckpointHeader) -> nn.Module:
    """Return the network of a file on the meta device.

    Raises:
        MissingModel: some of it is missing.
        UnsupportedCheckpoint: its shapes do not fit together, or it sees something else.
    """
    make = _flux if transformer_family(header) == "flux" else _qwen_image
    tensors = {name: info.shape for name, info in header.tensors.items()}
    # diffusers itself still uses what it calls deprecated here.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return make(Shapes(header, tensors, "ControlNet"))


def is_transformer_control(module: nn.Module) -> bool:
    """Say whether a network is such a ControlNet, and not one for a U-Net."""
    return "joint_attention_dim" in _of(module)


def is_flux_control(module: nn.Module) -> bool:
    """Say of such a ControlNet whether it is one of Flux.1."""
    return "pooled_projection_dim" in _of(module)


def transformer_modes(module: nn.Module) -> Mapping[str, int]:
    """Return the numbers of `UNION_TYPES` that a union tells apart, {} for others.

    Qwen-Image's unions find out by themselves what they are shown.
    """
    count = _of(module).get("num_mode") or 0
    return {name: mode for name, mode in _MODES.items() if mode < count}


def transformer_facts(module: nn.Module) -> dict[str, object]:
    """Return what a ControlNet and a transformer must agree in."""
    config = _of(module)
    latents = config.get("out_channels") or config.get("in_channels")
    return {
        "text states of width": config.get("joint_attention_dim"),
        "heads": config.get("num_attention_heads"),
        "heads of width": config.get("attention_head_dim"),
        "a prompt's vector of width": config.get("pooled_projection_dim"),
        "latents a patch": latents,
    }


def said_numbers(module: nn.Module, patches: int) -> int:
    """Return how many numbers a ControlNet adds to a row of so many patches."""
    config = _of(module)
    blocks = int(config["num_layers"]) + int(config.get("num_single_layers") or 0)
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    return blocks * width * patches


def _of(module: nn.Module) -> Mapping[str, Any]:
    return getattr(module, "config", None) or {}


def _flux(shapes: Shapes) -> nn.Module:
    from diffusers.models.controlnets.controlnet_flux import FluxControlNetModel

    if "input_hint_block.conv_in.weight" in shapes or "input_hint_block.0.weight" in shapes:
        raise UnsupportedCheckpoint(
            f"{shapes.file} is a Flux ControlNet of XLabs' kind, which is not supported in this "
            "version; take one that sees latents, as InstantX's and Shakker's"
        )
    width, channels = shapes.dims("x_embedder.weight", 2)
    double = shapes.count(lambda number: f"transformer_blocks.{number}.norm1.linear.weight")
    single = shapes.count(lambda number: f"single_transformer_blocks.{number}.proj_out.weight")
    first = "transformer_blocks" if double else "single_transformer_blocks"
    mode = "controlnet_mode_embedder.weight"
    pooled = shapes.dims("time_text_embed.text_embedder.linear_1.weight", 2)[1]
    return FluxControlNetModel(
        in_channels=_seen(shapes, channels),
        num_layers=double,
        num_single_layers=single,
        joint_attention_dim=shapes.dims("context_embedder.weight", 2)[1],
        pooled_projection_dim=pooled,
        guidance_embeds="time_text_embed.guidance_embedder.linear_1.weight" in shapes,
        num_mode=shapes.dims(mode, 2)[0] if mode in shapes else None,
        **_heads(shapes, width, first),
    )


def _qwen_image(shapes: Shapes) -> nn.Module:
    from diffusers.models.controlnets.controlnet_qwenimage import QwenImageControlNetModel

    width, channels = shapes.dims("img_in.weight", 2)
    heads = _heads(shapes, width, "transformer_blocks")
    module = QwenImageControlNetModel(
        in_channels=_seen(shapes, channels),
        out_channels=channels // 4,
        num_layers=shapes.count(lambda number: f"transformer_blocks.{number}.img_mod.1.weight"),
        joint_attention_dim=shapes.dims("txt_in.weight", 2)[1],
        **heads,
    )
    module.pos_embed = Places(heads["axes_dims_rope"])
    return module


def _heads(shapes: Shapes, width: int, blocks: str) -> dict[str, Any]:
    head = shapes.dims(f"{blocks}.0.attn.norm_q.weight", 1)[0]
    if width % head or head % 16:
        raise shapes.misfit(f"its width {width} cannot be cut into heads of {head}")
    return {
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "axes_dims_rope": rotation_axes(head),
    }


def _seen(shapes: Shapes, channels: int) -> int:
    """Return the channels of a patch, which the picture has as well."""
    seen = shapes.dims("controlnet_x_embedder.weight", 2)[1]
    if seen != channels:
        raise shapes.misfit(
            f"it is shown {seen} numbers a patch instead of {channels}: a mask too, which is not "
            "supported in this version"
        )
    return channels
