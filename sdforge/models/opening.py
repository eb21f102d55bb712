"""Model files as families know them: opened whatever their format, under the original names.

Networks are saved alone and under other prefixes by many tools; families look for them where the
original checkpoints have them. Only names change here, and only in the header. No torch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from sdforge.models.architectures import denoiser_tensors
from sdforge.models.checkpoint import CheckpointHeader, read_header
from sdforge.models.formats.diffusers_names import is_unet, is_vae, original_unet, original_vae
from sdforge.models.formats.ggml_names import is_text_encoder, original_text_name
from sdforge.models.layout import Layout

DENOISER = "model.diffusion_model."


def open_model(path: Path) -> CheckpointHeader:
    """Return the header of a checkpoint.

    Raises:
        MissingModel, UnsupportedCheckpoint, CorruptCheckpoint: as `checkpoint.read_header`.
    """
    header = read_header(path)
    layout = original_names(header.layout)
    return header if layout is header.layout else replace(header, layout=layout)


@lru_cache(maxsize=16)
def original_names(layout: Layout) -> Layout:
    """Return a layout with its denoiser under the prefix of the original checkpoints.

    U-Nets and VAEs that diffusers saved get their original names back, and so do text encoders that
    llama.cpp's tools made.
    """
    tensors = denoiser_tensors(layout)
    if tensors is None and is_text_encoder(layout.tensors):
        is_t5 = "enc.output_norm.weight" in layout.tensors
        return Layout(
            {original_text_name(key, is_t5=is_t5): info for key, info in layout.tensors.items()}
        )
    if tensors is None and is_vae(layout.tensors):
        return Layout(original_vae(layout.tensors))
    if tensors is None or any(map(layout.has_prefix, _COMPANIONS)):
        return layout
    below = layout.under(tensors.prefix)
    if is_unet(below) and "conv_in.weight" in below:
        own = {name: layout.tensors[key] for name, key in below.items()}
        others = {key: i for key, i in layout.tensors.items() if key not in set(below.values())}
        return Layout(others | {DENOISER + name: info for name, info in original_unet(own).items()})
    if tensors.prefix == DENOISER:
        return layout
    return Layout({_renamed(key, tensors.prefix): info for key, info in layout.tensors.items()})


# What lies beside a denoiser without a prefix of its own, or looks like one: left alone.
_COMPANIONS = (
    "lora_", "control_model.", "controlnet_", "zero_convs.", "input_hint_block.",
    "controlnet_cond_embedding.",
)  # fmt: skip
_OTHER_PARTS = (
    "first_stage_model.", "cond_stage_model.", "conditioner.", "text_encoders.", "vae.",
    "model_ema.",
)  # fmt: skip


def _renamed(key: str, prefix: str) -> str:
    if not key.startswith(prefix) or key.startswith(_OTHER_PARTS):
        return key
    return DENOISER + key[len(prefix) :]
