"""What a ControlNet file is, read off the names and shapes of its tensors. No torch here.

Two layouts are known: the original one (`control_model.…`, or without that prefix) and that of
diffusers (`controlnet_cond_embedding.…`). Any width works; what shapes cannot tell follows the
rules of the U-Nets (`families.sd_shapes`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.models.adapters.ip_adapter_file import ip_adapter_shape, is_ip_adapter
from sdforge.models.adapters.t2i_adapter import adapter_shape, is_t2i_adapter
from sdforge.models.checkpoint import CheckpointHeader

ORIGINAL, DIFFUSERS = "original", "diffusers"
# Not layouts of a ControlNet, but of what acts in its place.
# diffusers' with what tells several kinds of pictures apart.
UNION = "union"
TRANSFORMER = "transformer"
T2I_ADAPTER, CONTROL_LORA, IP_ADAPTER = "T2I-Adapter", "Control-LoRA", "IP-Adapter"
LLLITE = "ControlNet-LLLite"
_PREFIX = "control_model."
_HEADS = 8
_HEAD_WIDTH = 64
_HINT = re.compile(r"input_hint_block\.(\d+)\.(weight|bias)")
_GROUPS = "sdforge.unet_norm_groups"
_TIME_WIDTH = 256
Shapes = Mapping[str, tuple[int, ...]]
_OTHER_TRANSFORMER = (
    "a ControlNet of a transformer model other than Flux.1, Qwen-Image, SD 3 and Z-Image"
)
# Relatives that steer too, but in other ways; the more particular first.
_RELATIVES = (
    ("lllite_", "a ControlNet-LLLite of a transformer model"),
    ("controlnet_x_embedder.", _OTHER_TRANSFORMER),
    ("controlnet_blocks.", _OTHER_TRANSFORMER),
)


@dataclass(frozen=True, kw_only=True)
class ControlMatch:
    """Why a file is a ControlNet: its layout, the family it was made for, and the signs."""

    layout: str
    family: str
    reason: str


def match_controlnet(header: CheckpointHeader) -> ControlMatch:
    """Return what kind of ControlNet a file is.

    Raises:
        UnsupportedCheckpoint: it is none, or one of a kind that this version cannot run.
    """
    name = header.path.name
    transformer = transformer_family(header)
    if transformer:
        reason = f"ControlNet of a transformer: {transformer}"
        return ControlMatch(layout=TRANSFORMER, family=transformer, reason=reason)
    if header.has_prefix("lllite_unet_"):
        # SDXL's attentions have several blocks, those of others one.
        is_deep = any("_transformer_blocks_1_" in key for key in header.tensors)
        family = "sdxl" if is_deep else "sd1"
        return ControlMatch(layout=LLLITE, family=family, reason=f"ControlNet-LLLite: {family}")
    for prefix, kind in _RELATIVES:
        if header.has_prefix(prefix):
            raise UnsupportedCheckpoint(
                f"{name} is {kind}, which is not supported in this version; "
                "take a ControlNet of Stable Diffusion 1.x or XL"
            )
    if is_ip_adapter(header):
        seen = ip_adapter_shape(header)
        return ControlMatch(layout=IP_ADAPTER, family=seen.family, reason=seen.reason)
    if is_t2i_adapter(header):
        shape = adapter_shape(header)
        widths = ", ".join(map(str, shape.config["channels"]))
        reason = f"T2I-Adapter of widths {widths}: {shape.family}"
        return ControlMatch(layout=T2I_ADAPTER, family=shape.family, reason=reason)
    if "lora_controlnet" in header.tensors:
        return _match_control_lora(header)
    names = original_names(header)
    if "zero_convs.0.0.weight" in names:
        layout, signs = ORIGINAL, "zero_convs and input_hint_block"
        projection = _first(header, names, r"input_blocks\.\d+\.1\.proj_in\.weight")
        context = _first(header, names, r".*attn2\.to_k\.weight")
        has_vector = "label_emb.0.0.weight" in names
    elif header.has_prefix("controlnet_cond_embedding.") and "conv_in.weight" in header.tensors:
        own = header.under("")
        is_union = "task_embedding" in own
        layout = UNION if is_union else DIFFUSERS
        signs = "task_embedding" if is_union else "controlnet_cond_embedding"
        projection = _first(header, own, r"down_blocks\.\d+\.attentions\.0\.proj_in\.weight")
        context = _first(header, own, r".*attn2\.to_k\.weight")
        has_vector = "add_embedding.linear_1.weight" in own
    else:
        raise UnsupportedCheckpoint(
            f"{name} is no ControlNet: it has neither control_model.zero_convs nor "
            "controlnet_cond_embedding"
        )
    family = "sdxl" if has_vector else "sd2" if len(projection or ()) == 2 else "sd1"
    width = context[-1] if context else None
    return ControlMatch(
        layout=layout,
        family=family,
        reason=f"{layout} layout ({signs}), text states of width {width}: {family}",
    )


def transformer_family(header: CheckpointHeader) -> str:
    """Return the family whose transformer a ControlNet is for; "" where it is for a U-Net."""
    tensors = header.tensors
    if {"control_all_x_embedder.2-1.weight", "control_layers.0.after_proj.weight"} <= set(tensors):
        return "zimage"
    if {"pos_embed_input.weight", "double_blocks.0.img_attn.qkv.weight"} <= set(tensors):
        return "flux"
    if "pos_embed_input.proj.weight" in tensors and "controlnet_blocks.0.weight" in tensors:
        return "sd3"
    if "controlnet_x_embedder.weight" not in tensors:
        return ""
    if {"txt_norm.weight", "txt_in.weight", "img_in.weight"} <= tensors.keys():
        return "qwen_image"
    pooled = "time_text_embed.text_embedder.linear_1.weight"
    return "flux" if {"context_embedder.weight", pooled} <= tensors.keys() else ""


def _match_control_lora(header: CheckpointHeader) -> ControlMatch:
    """Return the match of a Control-LoRA; its factors tell the width of the text states."""
    names = header.under("")
    down = _first(header, names, r".*attn2\.to_k\.down")
    width = down[1] if down and len(down) > 1 else None
    if width is None:
        raise UnsupportedCheckpoint(
            f"{header.path.name} is no Control-LoRA that can be run: it has no attn2.to_k.down"
        )
    family = "sdxl" if "label_emb.0.0.weight" in names or "label_emb.0.0.up" in names else "sd1"
    return ControlMatch(
        layout=CONTROL_LORA,
        family=family,
        reason=f"Control-LoRA, text states of width {width}: {family}",
    )


def original_names(header: CheckpointHeader) -> Mapping[str, str]:
    """Return the tensors in the original's names without prefix → name in the file."""
    return header.under(_PREFIX) if header.has_prefix(_PREFIX) else header.under("")


def hint_name(name: str, hints: Collection[str]) -> str | None:
    """Return diffusers' name of a tensor of the original's hint block, None for others."""
    found = _HINT.fullmatch(name)
    if found is None:
        return None
    numbers = sorted({int(one[1]) for one in map(_HINT.fullmatch, hints) if one})
    place = numbers.index(int(found[1]))
    part = {0: "conv_in", len(numbers) - 1: "conv_out"}.get(place, f"blocks.{place - 1}")
    return f"controlnet_cond_embedding.{part}.{found[2]}"


def layers_per_block(names: Mapping[str, str]) -> int:
    """Return how many residual blocks the original's first level has."""
    count = 0
    while f"input_blocks.{count + 1}.0.in_layers.2.weight" in names:
        count += 1
    return count


def controlnet_config(shapes: Shapes, header: CheckpointHeader) -> dict[str, Any]:
    """Return the arguments of diffusers' `ControlNetModel`.

    Args:
        shapes: of all tensors, by diffusers' names.
        header: for its metadata and name.

    Raises:
        MissingModel: tensors are missing.
        UnsupportedCheckpoint: shapes do not fit together.
    """
    file = header.path.name
    widths, layers, depths = _levels(shapes)
    if not widths:
        raise MissingModel(f"the ControlNet in {file} is incomplete: it has no blocks")
    linear = any(
        key.endswith(".proj_in.weight") and len(shape) == 2 for key, shape in shapes.items()
    )
    context = next(
        (shape[1] for key, shape in shapes.items() if key.endswith("attn2.to_k.weight")), None
    )
    middle = _depth(shapes, "mid_block")
    heads = tuple(max(width // _HEAD_WIDTH, 1) for width in widths) if linear else _HEADS
    hint = _dims(shapes, "controlnet_cond_embedding.conv_in.weight", file)
    config: dict[str, Any] = {
        "in_channels": _dims(shapes, "conv_in.weight", file)[1],
        "conditioning_channels": hint[1],
        "conditioning_embedding_out_channels": (hint[0], *_hint_widths(shapes)),
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": tuple(
            "CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths
        ),
        # A level without attention has no depth; the last one's is also the middle's.
        "transformer_layers_per_block": tuple(
            middle or 1 if index == len(depths) - 1 else depth or 1
            for index, depth in enumerate(depths)
        ),
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        "cross_attention_dim": context,
        "attention_head_dim": heads,
        "use_linear_projection": linear,
        "norm_num_groups": _groups(header, widths),
    }
    vector = shapes.get("add_embedding.linear_1.weight")
    if vector is not None:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": _TIME_WIDTH,
            "projection_class_embeddings_input_dim": vector[1],
        }
    return config


def union_config(shapes: Shapes, header: CheckpointHeader) -> dict[str, Any]:
    """Return the arguments of diffusers' `ControlNetUnionModel`; as `controlnet_config`."""
    file = header.path.name
    config = controlnet_config(shapes, header)
    if config.pop("mid_block_type") != "UNetMidBlock2DCrossAttn":
        raise UnsupportedCheckpoint(f"the ControlNet in {file} has no attention in its middle")
    kinds, width = _dims(shapes, "task_embedding", file, 2)
    joined = _dims(shapes, "control_add_embedding.linear_1.weight", file, 2)[1]
    layers = 0
    while f"transformer_layes.{layers}.ln_1.weight" in shapes:
        layers += 1
    return config | {
        "num_control_type": kinds,
        "num_trans_channel": width,
        "num_trans_head": _HEADS,
        "num_trans_layer": layers,
        "num_proj_channel": _dims(shapes, "spatial_ch_projs.weight", file, 2)[0],
        "addition_time_embed_dim": joined // max(kinds, 1),
    }


def _levels(shapes: Shapes) -> tuple[tuple[int, ...], int, list[int]]:
    """Return (width of each level, residual blocks a level, transformer blocks by level)."""
    widths: list[int] = []
    depths: list[int] = []
    layers = 0
    while (first := f"down_blocks.{len(widths)}.resnets.0.conv1.weight") in shapes:
        level = f"down_blocks.{len(widths)}"
        widths.append(shapes[first][0])
        depths.append(_depth(shapes, level))
        layers = 0
        while f"{level}.resnets.{layers}.conv1.weight" in shapes:
            layers += 1
    return tuple(widths), layers, depths


def _depth(shapes: Shapes, block: str) -> int:
    count = 0
    while f"{block}.attentions.0.transformer_blocks.{count}.norm1.weight" in shapes:
        count += 1
    return count


def _hint_widths(shapes: Shapes) -> list[int]:
    """Return the widths after each halving of the hint: every second convolution."""
    widths: list[int] = []
    while True:
        name = f"controlnet_cond_embedding.blocks.{2 * len(widths) + 1}.weight"
        if name not in shapes:
            return widths
        widths.append(shapes[name][0])


def _groups(header: CheckpointHeader, widths: tuple[int, ...]) -> int:
    said = header.metadata.get(_GROUPS, "").strip()
    groups = int(said) if said.isdecimal() and len(said) < 6 else min(32, widths[0] // 4)
    if groups < 1 or any(width % groups for width in widths):
        raise UnsupportedCheckpoint(
            f"the ControlNet in {header.path.name} cannot be run: its widths {widths} cannot be "
            f"cut into {groups} groups"
        )
    return groups


def _dims(shapes: Shapes, name: str, file: str, count: int = 4) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None:
        raise MissingModel(f"the ControlNet in {file} is incomplete: {name} is missing")
    if len(shape) != count:
        raise UnsupportedCheckpoint(
            f"the ControlNet in {file} cannot be run: {name} has the shape {list(shape)}"
        )
    return shape


def _first(
    header: CheckpointHeader, names: Mapping[str, str], pattern: str
) -> tuple[int, ...] | None:
    for name, key in names.items():
        if re.fullmatch(pattern, name):
            return header.tensors[key].shape
    return None
