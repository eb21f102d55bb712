"""Names of tensors in the layout of diffusers → those of the original checkpoints.

For U-Nets of Stable Diffusion and KL VAEs, whose tensors correspond one to one; families read the
original layout only. The tables follow from how the networks are built: blocks are numbered
through in the original, level by level in diffusers. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sdforge.models.layout import TensorInfo

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
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.attentions.0": "middle_block.1",
}
_VAE_ATTENTION = {
    "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
    "query": "q", "key": "k", "value": "v", "proj_attn": "proj_out",
}  # fmt: skip
_BLOCK = re.compile(
    r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_VAE_BLOCK = re.compile(
    r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)"
)


def is_unet(names: Iterable[str]) -> bool:
    """Tell whether these are names of a U-Net as diffusers saves it."""
    return any(name.startswith(("down_blocks.", "mid_block.")) for name in names)


def is_vae(names: Iterable[str]) -> bool:
    """Tell whether these are names of a KL VAE as diffusers saves it."""
    known = list(names)
    is_video = any(name.endswith(".gamma") for name in known)
    starts = ("encoder.down_blocks.", "decoder.up_blocks.")
    return not is_video and any(name.startswith(starts) for name in known)


def original_unet(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Return a U-Net's tensors under the names of the original layout."""
    blocks = _count(tensors, "down_blocks.0.resnets.")
    attended = {
        int(match[2])
        for name in tensors
        if (match := _BLOCK.fullmatch(name)) and match[1] == "up" and match[3] == "attentions"
    }
    return {_unet_name(name, blocks, attended): info for name, info in tensors.items()}


def original_vae(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Return a VAE's tensors under the names of the original layout.

    Projections of its attention are matrices in diffusers and 1×1 kernels in the original.
    """
    levels = _count(tensors, "decoder.up_blocks.")
    found: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        renamed = _vae_name(name, levels)
        if ".attn_1." in renamed and len(info.shape) == 2:
            info = info._replace(shape=(*info.shape, 1, 1))
        found[renamed] = info
    return found


def _count(names: Iterable[str], lead: str) -> int:
    numbers = {name[len(lead) :].partition(".")[0] for name in names if name.startswith(lead)}
    return len(numbers)


def _unet_name(name: str, blocks: int, attended: set[int]) -> str:
    match = _BLOCK.fullmatch(name)
    if match is not None:
        side, level, kind, place, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if side == "down":
            number = 1 + level * (blocks + 1) + (blocks if kind == "downsamplers" else place)
            lead = f"input_blocks.{number}"
        else:
            number = level * (blocks + 1) + (blocks if kind == "upsamplers" else place)
            lead = f"output_blocks.{number}"
        if kind == "resnets":
            return f"{lead}.0.{_begun(rest, _RESNET)}"
        if kind == "attentions":
            return f"{lead}.1.{rest}"
        if kind == "downsamplers":
            return f"{lead}.0.op.{rest.removeprefix('conv.')}"
        return f"{lead}.{2 if level in attended else 1}.{rest}"
    match = re.fullmatch(r"mid_block\.resnets\.(\d)\.(.+)", name)
    if match is not None:
        return f"middle_block.{2 * int(match[1])}.{_begun(match[2], _RESNET)}"
    return _begun(name, _UNET_ENDS)


def _vae_name(name: str, levels: int) -> str:
    match = _VAE_BLOCK.fullmatch(name)
    if match is not None:
        coder, side, level, kind, place, rest = match.groups()
        # The original counts the decoder's levels from the outermost.
        number = int(level) if side == "down" else levels - 1 - int(level)
        if kind != "resnets":
            sampler = "downsample" if side == "down" else "upsample"
            return f"{coder}.{side}.{number}.{sampler}.{rest}"
        rest = _begun(rest, {"conv_shortcut": "nin_shortcut"})
        return f"{coder}.{side}.{number}.block.{place}.{rest}"
    match = re.fullmatch(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d)\.(.+)", name)
    if match is not None:
        coder, kind, place, rest = match.groups()
        if kind == "attentions":
            return f"{coder}.mid.attn_1.{_begun(rest, _VAE_ATTENTION)}"
        rest = _begun(rest, {"conv_shortcut": "nin_shortcut"})
        return f"{coder}.mid.block_{int(place) + 1}.{rest}"
    return re.sub(r"\.conv_norm_out\.", ".norm_out.", name)


def _begun(name: str, table: Mapping[str, str]) -> str:
    """Return a name with its beginning exchanged, where the table has it."""
    for start, other in table.items():
        if name.startswith(f"{start}."):
            return other + name[len(start) :]
    return name
