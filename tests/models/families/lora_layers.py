"""Layers of every family as LoRA files spell them: rows that tests run and a page shows.

A row is one matrix of a file: where its numbers are in the network, and its name in each spelling
that trainers write. With it lie the tiny networks of the family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from scripts.tiny_models import catalogue, text, transformers, vae, words
from scripts.tiny_models.files import random_tensors, write_safetensors
from scripts.tiny_models.unet import Shapes

Tensors = dict[str, torch.Tensor]

KOHYA, AUTHORS, DIFFUSERS, FLAT = "kohya", "authors", "diffusers", "flat"
# How spellings begin the names of a transformer; kohya's and the flat one (diffusers' names, as
# OneTrainer and kohya's first scripts write them) have underscores for dots.
_LEADS = {
    KOHYA: "lora_unet_",
    AUTHORS: "diffusion_model.",
    DIFFUSERS: "transformer.",
    FLAT: "lora_transformer_",
}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One matrix.

    Attributes:
        parts: the layers of ours that it is, in order.
        authors: its name in the authors' checkpoints; "" for text encoders.
        role: of the network that it lies in.
        leads: how kohya and diffusers begin the names of this network.
        is_shift_first: it gives a scale and a shift; the authors' names mean the shift's rows
            first, diffusers' the scale's.
    """

    parts: tuple[str, ...]
    authors: str = ""
    role: str = "denoiser"
    leads: tuple[str, str] = (_LEADS[KOHYA], _LEADS[DIFFUSERS])
    is_shift_first: bool = False

    def names(self, spelling: str) -> tuple[str, ...]:
        """Return the name of the whole, or of each part; () where the spelling has none."""
        kohya, diffusers = self.leads
        is_unet = diffusers.startswith("unet.")
        if self.role != "denoiser" and spelling in (AUTHORS, FLAT):
            return ()
        if spelling == KOHYA:
            return (_flat(kohya + (self.authors or self.parts[0])),)
        if spelling == AUTHORS:
            return (_LEADS[AUTHORS] + self.authors,)
        lead = diffusers if spelling == DIFFUSERS else kohya if is_unet else _LEADS[FLAT]
        names = tuple(lead + part for part in self.parts)
        return tuple(map(_flat, names)) if spelling == FLAT else names


def _flat(name: str) -> str:
    return name.replace(".", "_")


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family's tiny networks, by folder and file, the main one first, and its layers.

    `norms` are layers that have a weight of one number a channel, by the authors' name or ours.
    """

    files: Callable[[], Mapping[str, Tensors]]
    layers: tuple[Layer, ...]
    norms: Mapping[str, str]


def _drawn(**shapes: Shapes) -> Mapping[str, Tensors]:
    return {name: random_tensors(one, seed) for seed, (name, one) in enumerate(shapes.items(), 1)}


def _t5() -> Tensors:
    made = random_tensors(text.t5(), 9)
    return made | {"encoder.embed_tokens.weight": made["shared.weight"].clone()}


def _text(role: str, layer: str, kohya: str, diffusers: str) -> Layer:
    inside = "" if layer == _T5 else "text_model."
    return Layer(role=role, parts=(layer,), leads=(kohya + inside, diffusers + inside))


def _qkv(block: str, ours: str, theirs: str, *, added: bool = False) -> Layer:
    names = ("add_q_proj", "add_k_proj", "add_v_proj") if added else ("to_q", "to_k", "to_v")
    return Layer(parts=tuple(f"{block}.{ours}.{name}" for name in names), authors=theirs)


_CLIP = "encoder.layers.1.self_attn.q_proj"
_OPEN_CLIP = "encoder.layers.1.mlp.fc1"
_T5 = "encoder.block.0.layer.0.SelfAttention.q"
_UNET_LEADS = ("lora_unet_", "unet.")
_UNET = tuple(
    Layer(parts=(ours,), authors=theirs, leads=_UNET_LEADS)
    for ours, theirs in (
        (
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
            "input_blocks.4.1.transformer_blocks.0.attn2.to_k",
        ),
        (
            "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
            "middle_block.1.transformer_blocks.0.ff.net.0.proj",
        ),
        ("up_blocks.0.resnets.1.conv1", "output_blocks.1.0.in_layers.2"),
    )
)
_UNET_NORMS = {"mid_block.attentions.0.norm": "middle_block.1.norm"}
_LAST = Layer(
    parts=("norm_out.linear",), authors="final_layer.adaLN_modulation.1", is_shift_first=True
)
_FLUX = (
    _qkv("transformer_blocks.0", "attn", "double_blocks.0.img_attn.qkv"),
    _qkv("transformer_blocks.0", "attn", "double_blocks.0.txt_attn.qkv", added=True),
    Layer(
        parts=tuple(
            f"single_transformer_blocks.1.{name}"
            for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
        ),
        authors="single_blocks.1.linear1",
    ),
    Layer(parts=("single_transformer_blocks.0.proj_out",), authors="single_blocks.0.linear2"),
    Layer(parts=("transformer_blocks.0.ff.net.2",), authors="double_blocks.0.img_mlp.2"),
)
_FLUX_NORMS = {
    "transformer_blocks.0.attn.norm_added_q": "double_blocks.0.txt_attn.norm.query_norm",
    "single_transformer_blocks.1.attn.norm_k": "single_blocks.1.norm.key_norm",
}


def _stream(block: str, attention: str, out: str, rest: Mapping[str, str]) -> tuple[Layer, ...]:
    return (
        _qkv(block, attention, f"{block}.attention.qkv"),
        Layer(parts=(f"{block}.{out}",), authors=f"{block}.attention.out"),
        *(Layer(parts=(ours,), authors=theirs) for ours, theirs in rest.items()),
    )


FAMILIES: dict[str, Family] = {
    "sd1": Family(
        files=lambda: _drawn(main=catalogue.sd1()),
        layers=(*_UNET, _text("text_encoder", _CLIP, "lora_te_", "text_encoder.")),
        norms=_UNET_NORMS,
    ),
    "sd2": Family(
        files=lambda: _drawn(main=catalogue.sd2()),
        layers=(*_UNET, _text("text_encoder", _OPEN_CLIP, "lora_te_", "text_encoder.")),
        norms=_UNET_NORMS,
    ),
    "sdxl": Family(
        files=lambda: _drawn(main=catalogue.sdxl()),
        layers=(
            *_UNET,
            _text("text_encoder", _CLIP, "lora_te1_", "text_encoder."),
            _text("text_encoder_2", _OPEN_CLIP, "lora_te2_", "text_encoder_2."),
        ),
        norms=_UNET_NORMS,
    ),
    "sd3": Family(
        files=lambda: _drawn(main=catalogue.sd3(normed=True, second=1)),
        layers=(
            _qkv("transformer_blocks.0", "attn", "joint_blocks.0.x_block.attn.qkv"),
            _qkv("transformer_blocks.0", "attn2", "joint_blocks.0.x_block.attn2.qkv"),
            _qkv(
                "transformer_blocks.1", "attn", "joint_blocks.1.context_block.attn.qkv", added=True
            ),
            Layer(
                parts=("transformer_blocks.0.ff.net.0.proj",),
                authors="joint_blocks.0.x_block.mlp.fc1",
            ),
            Layer(parts=("pos_embed.proj",), authors="x_embedder.proj"),
            Layer(
                parts=("transformer_blocks.1.norm1_context.linear",),
                authors="joint_blocks.1.context_block.adaLN_modulation.1",
                is_shift_first=True,
            ),
            _LAST,
            _text("text_encoder", _CLIP, "lora_te1_", "text_encoder."),
            _text("text_encoder_2", _OPEN_CLIP, "lora_te2_", "text_encoder_2."),
            _text("text_encoder_3", _T5, "lora_te3_", "text_encoder_3."),
        ),
        norms={"transformer_blocks.0.attn.norm_q": "joint_blocks.0.x_block.attn.ln_q"},
    ),
    "flux": Family(
        files=lambda: {
            **_drawn(main=transformers.flux(), VAE=vae.vae(vae.SIXTEEN)),
            "text_encoder:1": random_tensors(text.clip(text.CLIP_L), 3),
            "text_encoder:2": _t5(),
        },
        layers=(
            *_FLUX,
            Layer(
                parts=("transformer_blocks.0.norm1.linear",), authors="double_blocks.0.img_mod.lin"
            ),
            _LAST,
            _text("text_encoder", _CLIP, "lora_te1_", "text_encoder."),
            _text("text_encoder_2", _T5, "lora_te3_", "text_encoder_2."),
        ),
        norms=_FLUX_NORMS,
    ),
    "flux2-klein": Family(
        files=lambda: {
            **_drawn(main=transformers.flux2(), VAE=vae.flux2_vae()),
            "text_encoder": random_tensors(text.qwen3(layers=28), 3),
        },
        layers=(
            *_FLUX[:2],
            Layer(
                parts=("single_transformer_blocks.1.attn.to_qkv_mlp_proj",),
                authors="single_blocks.1.linear1",
            ),
            Layer(
                parts=("single_transformer_blocks.0.attn.to_out",),
                authors="single_blocks.0.linear2",
            ),
            Layer(
                parts=("transformer_blocks.0.ff.linear_out",), authors="double_blocks.0.img_mlp.2"
            ),
            Layer(
                parts=("single_stream_modulation.linear",), authors="single_stream_modulation.lin"
            ),
            _LAST,
        ),
        norms=_FLUX_NORMS,
    ),
    "chroma": Family(
        files=lambda: {
            **_drawn(main=transformers.chroma(), VAE=vae.vae(vae.SIXTEEN)),
            "text_encoder": _t5(),
        },
        layers=(
            *_FLUX,
            Layer(
                parts=("distilled_guidance_layer.layers.1.linear_1",),
                authors="distilled_guidance_layer.layers.1.in_layer",
            ),
            _text("text_encoder", _T5, "lora_te3_", "text_encoder."),
        ),
        norms=_FLUX_NORMS,
    ),
    "zimage": Family(
        files=lambda: {
            **_drawn(main=transformers.z_image(context=32), VAE=vae.vae(vae.SIXTEEN)),
            "text_encoder": random_tensors(text.qwen3(), 3),
        },
        layers=_stream(
            "layers.1",
            "attention",
            "attention.to_out.0",
            {
                "context_refiner.0.feed_forward.w2": "context_refiner.0.feed_forward.w2",
                "layers.0.adaLN_modulation.0": "layers.0.adaLN_modulation.0",
                "all_final_layer.2-1.linear": "final_layer.linear",
            },
        ),
        norms={"layers.0.attention.norm_q": "layers.0.attention.q_norm"},
    ),
    "qwen-image": Family(
        files=lambda: {
            **_drawn(main=transformers.qwen_image(context=32), VAE=vae.video_vae()),
            "text_encoder": random_tensors(text.qwen25(), 3),
        },
        layers=tuple(
            Layer(parts=(name,), authors=name)
            for name in (
                "transformer_blocks.0.attn.to_q",
                "transformer_blocks.1.attn.add_k_proj",
                "transformer_blocks.0.img_mlp.net.2",
                "transformer_blocks.1.txt_mod.1",
                "norm_out.linear",
            )
        ),
        norms={"transformer_blocks.0.attn.norm_q": "transformer_blocks.0.attn.norm_q"},
    ),
    "lumina2": Family(
        files=lambda: {
            **_drawn(main=transformers.lumina2(), VAE=vae.vae(vae.SIXTEEN)),
            "text_encoder": random_tensors(text.gemma2(), 3) | words.carried(),
        },
        layers=_stream(
            "layers.1",
            "attn",
            "attn.to_out.0",
            {
                "noise_refiner.0.feed_forward.linear_2": "noise_refiner.0.feed_forward.w2",
                "layers.0.norm1.linear": "layers.0.adaLN_modulation.1",
                "time_caption_embed.caption_embedder.1": "cap_embedder.1",
                "norm_out.linear_2": "final_layer.linear",
            },
        ),
        norms={
            "layers.0.norm1.norm": "layers.0.attention_norm1",
            "context_refiner.0.norm1": "context_refiner.0.attention_norm1",
        },
    ),
}


def write(family: str, folder: Path) -> list[Path]:
    """Write the tiny files of a family, the main one first."""
    return [
        write_safetensors(folder / f"{name.replace(':', '')}.safetensors", tensors, "F32")
        for name, tensors in FAMILIES[family].files().items()
    ]
