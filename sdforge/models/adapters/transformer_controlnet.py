"""ControlNets of transformers (Flux.1, Qwen-Image, SD 3, Z-Image) on diffusers' networks.

InstantX's, Shakker's, jasperai's, alibaba's and Stability's are a few blocks that see the picture
as latents; XLabs' see its pixels. Those that are shown a mask as well are refused. Other names than
diffusers' are in `authors_controlnet.py`, Z-Image's in `z_image_controlnet.py`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdforge.core.errors import InvalidRequest, UnsupportedCheckpoint
from sdforge.models.adapters.authors_controlnet import (
    CANNY,
    DEPTH,
    control_sources,
    is_stability,
    kind_by_name,
    said_kind,
)
from sdforge.models.adapters.controlnet_shapes import transformer_family
from sdforge.models.adapters.z_image_controlnet import (
    is_z_image_control,
    z_image_control,
    z_image_facts,
    z_image_numbers,
)
from sdforge.models.bundle import LatentFormat
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Source
from sdforge.models.families.flux import rotation_axes
from sdforge.models.families.sd3 import head_width
from sdforge.models.families.sd_shapes import Shapes
from sdforge.models.qwen_image_call import Places
from sdforge.models.weight_files import WeightFiles, stored_type

# Numbers of a union's kinds, as InstantX gave them (canny, tile, depth, blur, pose, grey, low
# quality); by the names that units have for them.
_MODES = {"Hard Edge": 0, "Tile": 1, "Depth": 2, "OpenPose": 4}
# What Stability's edges are multiplied by, and added, before the VAE sees them.
_CANNY_SCALE, _CANNY_SHIFT = 127.5, 0.5
_PIXELS_A_PATCH = 16
_LARGEST_NUMBER = 8


def transformer_control(header: CheckpointHeader) -> nn.Module:
    """Return the network of a file on the meta device.

    Raises:
        MissingModel: some of it is missing.
        UnsupportedCheckpoint: its shapes do not fit together, or it sees something else.
    """
    family = transformer_family(header)
    make = {"flux": _flux, "sd3": _sd3, "qwen_image": _qwen_image}.get(family)
    tensors = {name: source.shape for name, source in control_sources(header).items()}
    kind = _kind(header) if is_stability(header) else None
    # diffusers itself still uses what it calls deprecated here.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        shapes = Shapes(header, tensors, "ControlNet")
        if kind is not None:
            return _stability(shapes, kind)
        return z_image_control(header, shapes) if make is None else make(shapes)


def is_transformer_control(module: nn.Module) -> bool:
    """Say whether a network is such a ControlNet, and not one for a U-Net."""
    return "joint_attention_dim" in _of(module) or is_z_image_control(module)


def is_flux_control(module: nn.Module) -> bool:
    """Say of such a ControlNet whether it is one of Flux.1."""
    return "num_single_layers" in _of(module)


def is_sd3_control(module: nn.Module) -> bool:
    """Say of such a ControlNet whether it is one of SD 3."""
    return "caption_projection_dim" in _of(module)


def is_stability_control(module: nn.Module) -> bool:
    """Say of one of SD 3 whether it is Stability's: it sees no text, but the prompt's vector."""
    return is_sd3_control(module) and _of(module)["joint_attention_dim"] is None


def is_xlabs_control(module: nn.Module) -> bool:
    """Say whether a ControlNet is one of XLabs', which sees pixels."""
    return getattr(module, "input_hint_block", None) is not None


def transformer_modes(module: nn.Module) -> Mapping[str, int]:
    """Return the numbers of `UNION_TYPES` that a union tells apart, {} for others.

    Qwen-Image's unions find out by themselves what they are shown.
    """
    count = _of(module).get("num_mode") or 0
    return {name: mode for name, mode in _MODES.items() if mode < count}


def transformer_facts(module: nn.Module) -> dict[str, object]:
    """Return what a ControlNet and a transformer must agree in."""
    config = _of(module)
    if "n_heads" in config:
        return z_image_facts(module)
    latents = config.get("out_channels") or config.get("in_channels")
    return {
        **_text_facts(module),
        "heads": config.get("num_attention_heads"),
        "heads of width": config.get("attention_head_dim"),
        "a prompt's vector of width": config.get("pooled_projection_dim"),
        "latents a patch": latents,
    }


def _text_facts(module: nn.Module) -> dict[str, object]:
    if is_stability_control(module):
        return {}
    return {"text states of width": _of(module).get("joint_attention_dim")}


def shown_to(
    module: nn.Module,
    pixels: Tensor,
    encode: Callable[[Tensor], Tensor],
    known: LatentFormat,
) -> Tensor:
    """Return a picture as a ControlNet was trained on it.

    Args:
        module: the ControlNet.
        pixels: (1, 3, height, width) from 0 to 1.
        encode: pixels → latents by the checkpoint's VAE.
        known: those latents' format.

    Returns:
        Latents (1, channels, height/8, width/8), but pixels from −1 to 1 for one of XLabs', with
        whole patches a side.

    Raises:
        InvalidRequest: they have more patches a side than the network's table of places.
    """
    if is_xlabs_control(module):
        below, right = (-side % _PIXELS_A_PATCH for side in pixels.shape[-2:])
        return F.pad(pixels, (0, right, 0, below), mode="circular") * 2 - 1
    if is_stability_control(module):
        return encode(_as_stability_sees(pixels, _of(module)["control_type"]))
    latents = encode(pixels)
    if not is_sd3_control(module):
        return latents
    most = int(_of(module)["pos_embed_max_size"]) * 2
    if max(latents.shape[-2:]) > most:
        side = most * known.downscale
        found = max(latents.shape[-2:]) * known.downscale
        raise InvalidRequest("width or height", found, f"at most {side} pixels, for the ControlNet")
    # InstantX' see them unshifted.
    return latents + known.shift * known.scale


def _as_stability_sees(pixels: Tensor, kind: int) -> Tensor:
    """Return pixels from 0 to 1 as the VAE is to take them (docs/decisions/0165)."""
    if kind == CANNY:
        # The VAE makes 2x − 1 of what it is given.
        return (pixels * _CANNY_SCALE + _CANNY_SHIFT + 1) / 2
    return 1 - pixels if kind == DEPTH else pixels


def said_numbers(module: nn.Module, patches: int) -> int:
    """Return how many numbers a ControlNet adds to a row of so many patches."""
    if is_z_image_control(module):
        return z_image_numbers(module, patches)
    config = _of(module)
    blocks = int(config["num_layers"]) + int(config.get("num_single_layers") or 0)
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    return blocks * width * patches


def _of(module: nn.Module) -> Mapping[str, Any]:
    return getattr(module, "config", None) or {}


def _flux(shapes: Shapes) -> nn.Module:
    from diffusers.models.controlnets.controlnet_flux import FluxControlNetModel

    hint = "input_hint_block.conv_out"
    seen = {}
    if f"{hint}.weight" in shapes or f"{hint}.bias" in shapes:
        hints = shapes.dims(f"{hint}.weight", 4)[0]
        seen = {"conditioning_embedding_channels": hints, "patch_size": 2}
    width, channels = shapes.dims("x_embedder.weight", 2)
    double = max(
        shapes.count(lambda number: f"transformer_blocks.{number}.norm1.linear.weight"),
        shapes.count(lambda number: f"controlnet_blocks.{number}.weight"),
    )
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
        **seen,
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


def _sd3(shapes: Shapes) -> nn.Module:
    from diffusers.models.controlnets.controlnet_sd3 import SD3ControlNetModel

    width, channels, *_ = shapes.dims("pos_embed.proj.weight", 4)
    seen = shapes.dims("pos_embed_input.proj.weight", 4)[1]
    places = shapes.dims("pos_embed.pos_embed", 3)[1]
    if seen != channels:
        raise shapes.misfit(_sees_more(seen, channels))
    depth = shapes.count(lambda number: f"transformer_blocks.{number}.norm1.linear.weight")
    head = head_width(shapes)
    if width % head or isqrt(places) ** 2 != places:
        raise shapes.misfit(f"its width {width} or its {places} places cannot be cut evenly")
    pooled = shapes.dims("time_text_embed.text_embedder.linear_1.weight", 2)[1]
    return SD3ControlNetModel(
        in_channels=channels,
        out_channels=channels,
        num_layers=depth,
        attention_head_dim=head,
        num_attention_heads=width // head,
        joint_attention_dim=shapes.dims("context_embedder.weight", 2)[1],
        caption_projection_dim=shapes.dims("context_embedder.weight", 2)[0],
        pooled_projection_dim=pooled,
        pos_embed_max_size=isqrt(places),
        dual_attention_layers=tuple(
            number
            for number in range(depth)
            if f"transformer_blocks.{number}.attn2.to_q.weight" in shapes
        ),
        qk_norm="rms_norm" if "transformer_blocks.0.attn.norm_q.weight" in shapes else None,
    )


def _stability(shapes: Shapes, kind: int) -> nn.Module:
    from diffusers.models.controlnets.controlnet_sd3 import SD3ControlNetModel

    width, channels, *_ = shapes.dims("pos_embed_input.proj.weight", 4)
    head = head_width(shapes)
    if width % head:
        raise shapes.misfit(f"its width {width} cannot be cut into heads of {head}")
    module = SD3ControlNetModel(
        in_channels=channels,
        out_channels=channels,
        num_layers=shapes.count(lambda number: f"controlnet_blocks.{number}.weight"),
        attention_head_dim=head,
        num_attention_heads=width // head,
        joint_attention_dim=None,
        caption_projection_dim=width,
        pooled_projection_dim=shapes.dims("time_text_embed.text_embedder.linear_1.weight", 2)[1],
        pos_embed_max_size=None,
        pos_embed_type=None,
        use_pos_embed=False,
        force_zeros_for_pooled_projection=False,
    )
    module.register_to_config(control_type=kind)
    return module


def _kind(header: CheckpointHeader) -> int:
    """Return the number of the pictures that one of Stability's was trained with."""
    name = said_kind(header)
    if name is None:
        return kind_by_name(header)
    info = header.tensors[name]
    if math.prod(info.shape) != 1 or info.size_bytes > _LARGEST_NUMBER:
        raise UnsupportedCheckpoint(
            f"the ControlNet in {header.path.name} cannot be run: {name} is {list(info.shape)} "
            "instead of one number"
        )
    with WeightFiles(header) as files:
        if stored_type(info) is not None:
            number = files.number(Source(name, info.shape))
            return round(number) if math.isfinite(number) else kind_by_name(header)
        found = bytearray()
        files.copy(info, found.extend)
    return int.from_bytes(found, "little", signed=True)


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
        raise shapes.misfit(_sees_more(seen, channels))
    return channels


def _sees_more(seen: int, channels: int) -> str:
    return (
        f"it is shown {seen} numbers a patch instead of {channels}: a mask too, which is not "
        "supported in this version"
    )
