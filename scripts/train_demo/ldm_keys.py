"""Renames weights from diffusers/transformers to the Stable Diffusion 1.5 single-file layout.

diffusers ships the way in (LDM to diffusers) only; this is the way out. Each function walks the
network's own structure, so it holds for any width and any number of blocks.
"""

from __future__ import annotations

import re

import torch

Weights = dict[str, torch.Tensor]

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer.text_model."

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def unet_to_ldm(weights: Weights) -> Weights:
    """A UNet2DConditionModel's weights under their LDM names."""
    levels = 1 + max(int(m[1]) for k in weights if (m := re.match(r"down_blocks\.(\d+)\.", k)))
    layers = 1 + max(
        int(m[1]) for k in weights if (m := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", k))
    )
    return {
        UNET_PREFIX + _unet_name(key, levels, layers): value.contiguous()
        for key, value in weights.items()
    }


def _unet_name(key: str, levels: int, layers: int) -> str:
    """LDM name of one UNet weight.

    LDM counts all blocks of one side in one row: the first convolution, then per level its layers
    and one resampling block (none after the last level). Going up, every level has one layer more
    and resamples inside its last block.
    """
    for ours, theirs in _UNET_ENDS.items():
        if key.startswith(ours + "."):
            return theirs + key[len(ours) :]
    side, rest = key.split(".", 1)
    if side == "mid_block":
        kind, number, tail = rest.split(".", 2)
        place = 2 * int(number) if kind == "resnets" else 1
        return f"middle_block.{place}.{_resnet_tail(tail) if kind == 'resnets' else tail}"
    level_text, kind, index_text, tail = rest.split(".", 3)
    level, index = int(level_text), int(index_text)
    if side == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.{tail.replace('conv', 'op', 1)}"
        block = f"input_blocks.{1 + level * (layers + 1) + index}"
    elif kind == "upsamplers":
        with_attention = level > 0  # the innermost level has no transformers
        return f"output_blocks.{level * (layers + 1) + layers}.{1 + with_attention}.{tail}"
    else:
        block = f"output_blocks.{level * (layers + 1) + index}"
    if kind == "attentions":
        return f"{block}.1.{tail}"
    return f"{block}.0.{_resnet_tail(tail)}"


def _resnet_tail(tail: str) -> str:
    part, _, leaf = tail.rpartition(".")
    return f"{_RESNET[part]}.{leaf}"


def vae_to_ldm(weights: Weights) -> Weights:
    """An AutoencoderKL's weights under their LDM names; attention matrices become 1x1 filters."""
    found = (re.match(r"encoder\.down_blocks\.(\d+)", key) for key in weights)
    levels = 1 + max(int(match[1]) for match in found if match)
    renamed = {}
    for key, value in weights.items():
        name = _vae_name(key, levels)
        if ".attn_1." in name and value.ndim == 2:
            value = value[:, :, None, None]
        renamed[VAE_PREFIX + name] = value.contiguous()
    return renamed


def _vae_name(key: str, levels: int) -> str:
    """LDM name of one VAE weight; LDM numbers the decoder's levels from the outside."""
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(
        r"up_blocks\.(\d+)\.(resnets|upsamplers\.0)",
        lambda m: f"up.{levels - 1 - int(m[1])}." + ("block" if m[2] == "resnets" else "upsample"),
        key,
    )
    if "mid_block.attentions.0." in key:
        head, tail = key.split("mid_block.attentions.0.")
        part, _, leaf = tail.rpartition(".")
        key = f"{head}mid.attn_1.{_VAE_ATTENTION[part]}.{leaf}"
    return key


def text_to_ldm(weights: Weights) -> Weights:
    """A CLIPTextModel's weights under their LDM names (transformers 5.6 dropped `text_model.`)."""
    return {TEXT_PREFIX + k.removeprefix("text_model."): v.contiguous() for k, v in weights.items()}
