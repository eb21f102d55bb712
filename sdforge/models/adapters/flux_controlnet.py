"""ControlNets of Flux.1: transformers of a few blocks, in the layout of diffusers.

InstantX's, Shakker's and jasperai's are such. They see the picture as latents. XLabs' see it
otherwise and are refused by name.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.adapters.controlnet_shapes import flux_signs
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.flux import rotation_axes
from sdforge.models.families.sd_shapes import Shapes

# Numbers of a union's kinds, as InstantX gave them (canny, tile, depth, blur, pose, grey, low
# quality); by the names that units have for them.
_MODES = {"Hard Edge": 0, "Tile": 1, "Depth": 2, "OpenPose": 4}


def flux_control(header: CheckpointHeader) -> nn.Module:
    """Return the network of a file on the meta device.

    Raises:
        MissingModel: some of it is missing.
        UnsupportedCheckpoint: its shapes do not fit together, or it is one of XLabs'.
    """
    from diffusers.models.controlnets.controlnet_flux import FluxControlNetModel

    config = _config(header)
    # diffusers itself still uses what it calls deprecated here.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return FluxControlNetModel(**config)


def is_flux_control(module: nn.Module) -> bool:
    """Say whether a network is a ControlNet of Flux."""
    return "joint_attention_dim" in (getattr(module, "config", None) or {})


def flux_modes(module: nn.Module) -> Mapping[str, int]:
    """Return the numbers of `UNION_TYPES` that a union tells apart, {} for others."""
    count = _of(module).get("num_mode") or 0
    return {name: mode for name, mode in _MODES.items() if mode < count}


def flux_facts(module: nn.Module) -> dict[str, object]:
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


def _of(module: nn.Module) -> Mapping[str, Any]:
    return getattr(module, "config", None) or {}


def _config(header: CheckpointHeader) -> dict[str, Any]:
    file = header.path.name
    if header.has_prefix("input_hint_block."):
        raise UnsupportedCheckpoint(
            f"{file} is a Flux ControlNet of XLabs' kind, which is not supported in this version; "
            "take one that sees latents, as InstantX's and Shakker's"
        )
    tensors = {name: info.shape for name, info in header.tensors.items()}
    shapes = Shapes(header, tensors, flux_signs(header) or "ControlNet")
    width, channels = shapes.dims("x_embedder.weight", 2)
    double = shapes.count(lambda number: f"transformer_blocks.{number}.norm1.linear.weight")
    single = shapes.count(lambda number: f"single_transformer_blocks.{number}.proj_out.weight")
    first = "transformer_blocks" if double else "single_transformer_blocks"
    head = shapes.dims(f"{first}.0.attn.norm_q.weight", 1)[0]
    if width % head or head % 16:
        raise shapes.misfit(f"its width {width} cannot be cut into heads of {head}")
    mode = "controlnet_mode_embedder.weight"
    pooled = shapes.dims("time_text_embed.text_embedder.linear_1.weight", 2)[1]
    return {
        "in_channels": channels,
        "num_layers": double,
        "num_single_layers": single,
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes.dims("context_embedder.weight", 2)[1],
        "pooled_projection_dim": pooled,
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in shapes,
        "axes_dims_rope": rotation_axes(head),
        "num_mode": shapes.dims(mode, 2)[0] if mode in shapes else None,
    }
