"""Say what a file is, with the reason in words, from the names and shapes of its tensors.

Families recognise their own; what none of them takes is compared with the kinds known by name, so
that the refusal says what the file is instead of only what it is not. Headers only, no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.core.request import Recommended
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families import FAMILIES
from sdforge.models.families.base import Match

_UNET = "model.diffusion_model."


def detect(header: CheckpointHeader) -> Match:
    """Return the family and variant of a checkpoint.

    Raises:
        UnsupportedCheckpoint: naming the kind of file where it is known.
    """
    for family in FAMILIES:
        match = family.match(header)
        if match is not None:
            return match
    raise UnsupportedCheckpoint(f"{header.path.name} {_name_stranger(header)}")


def recommended(metadata: Mapping[str, str]) -> Recommended:
    """Return the settings that a checkpoint's metadata asks for; nonsense counts as nothing said.

    Keys: `modelspec.resolution` ("128x128") of the model spec, and our own `sdforge.cfg_scale`,
    `sdforge.steps`, `sdforge.sampler`.
    """
    size = re.fullmatch(
        r"\s*(\d{2,5})\s*(?:[x×]\s*(\d{2,5}))?\s*", metadata.get("modelspec.resolution", "")
    )
    width = int(size[1]) if size else None
    cfg_scale = _number(metadata.get("sdforge.cfg_scale", ""))
    steps = _number(metadata.get("sdforge.steps", ""))
    return Recommended(
        width=width,
        height=int(size[2]) if size and size[2] else width,
        steps=int(steps) if steps is not None and 1 <= steps <= 1000 else None,
        cfg_scale=cfg_scale if cfg_scale is not None and 0 <= cfg_scale <= 100 else None,
        sampler=metadata.get("sdforge.sampler", "").strip() or None,
    )


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _name_stranger(header: CheckpointHeader) -> str:
    for test, kind in _STRANGERS:
        if test(header):
            return kind
    architecture = header.metadata.get("modelspec.architecture")
    if architecture:
        return f"is of a kind that this version does not know (its metadata says {architecture!r})"
    if not header.tensors:
        return "holds no tensors"
    sample = ", ".join(sorted(header.tensors)[:3])
    return f"is of a kind that this version does not know (it holds {sample}, …)"


def _has(*prefixes: str) -> Callable[[CheckpointHeader], bool]:
    return lambda header: any(header.has_prefix(prefix) for prefix in prefixes)


def _unet_has(*prefixes: str) -> Callable[[CheckpointHeader], bool]:
    """Test for tensors of a denoiser, saved alone or as a part of a checkpoint."""
    return _has(*(lead + prefix for prefix in prefixes for lead in (_UNET, "")))


def _is_sd2(header: CheckpointHeader) -> bool:
    # SD 2.x projects into its transformers with linear layers, SD 1.x with 1×1 convolutions.
    projection = header.shape(f"{_UNET}input_blocks.1.1.proj_in.weight")
    return projection is not None and len(projection) == 2


def _model(name: str) -> str:
    return f"is a {name} model, which is not supported in this version"


# Order matters: the more particular first.
_STRANGERS: tuple[tuple[Callable[[CheckpointHeader], bool], str], ...] = (
    (
        _has("lora_unet_", "lora_te", "lora_transformer_"),
        "is a LoRA, not a checkpoint; it belongs into models/Lora",
    ),
    (
        _has("control_model.", "controlnet_cond_embedding.", "zero_convs.", "input_hint_block."),
        "is a ControlNet, not a checkpoint; it belongs into models/ControlNet",
    ),
    (
        _has("conditioner.embedders.1.", f"{_UNET}input_blocks.7.1.transformer_blocks.9."),
        _model("Stable Diffusion XL"),
    ),
    (_has("conditioner.embedders.0."), _model("Stable Diffusion XL refiner")),
    (_has(f"{_UNET}label_emb.0."), _model("Stable Diffusion XL type")),
    (_has(f"{_UNET}label_emb."), _model("Stable Diffusion upscaler")),
    (_has("cond_stage_model.model.transformer."), _model("Stable Diffusion 2")),
    (_is_sd2, _model("Stable Diffusion 2 type")),
    (_unet_has("joint_blocks."), _model("Stable Diffusion 3")),
    (_unet_has("distilled_guidance_layer."), _model("Chroma")),
    (_unet_has("double_stream_modulation_img."), _model("Flux.2")),
    (
        lambda header: (
            _unet_has("double_blocks.0.img_attn.norm.query_norm.")(header)
            and _unet_has("individual_token_refiner.", "txt_in.individual_token_refiner.")(header)
        ),
        _model("HunyuanVideo"),
    ),
    (_unet_has("double_blocks.", "single_blocks."), _model("Flux")),
    (_unet_has("cap_embedder."), _model("Lumina 2 or Z-Image")),
    (_unet_has("transformer_blocks.0.img_mod."), _model("Qwen-Image")),
    (_unet_has("double_layers.", "joint_transformer_blocks."), _model("AuraFlow or SD 3 type")),
    (_unet_has("adaln_single.", "t_block."), _model("PixArt")),
    (_unet_has("patch_embedding.", "img_emb."), _model("Wan video")),
    (_unet_has("down_blocks.0.0.channelwise."), _model("Stable Cascade")),
    (
        _has("down_blocks.", "time_embedding.linear_1."),
        "is a denoiser in the layout of diffusers, which is not supported in this version",
    ),
    (
        _has("first_stage_model.", "decoder.conv_in.", "decoder.mid."),
        "is a VAE, not a checkpoint; it belongs into models/VAE",
    ),
    (
        _has("text_model.encoder.", "transformer.text_model.", "encoder.block.0."),
        "is a text encoder, not a checkpoint; it belongs into models/text_encoder",
    ),
    (
        _has("emb_params", "string_to_param", "clip_g", "clip_l"),
        "is an embedding, not a checkpoint",
    ),
)
