"""Writes a tiny SD 1.x model as a folder in diffusers' layout."""

from __future__ import annotations

from pathlib import Path

import torch

from .files import write_json, write_safetensors


def write_diffusers_folder(path: Path, seed: int = 0) -> Path:
    """Write networks with their configurations, scheduler and index; no tokenizer.

    Real folders carry the tokenizer's files too; every SD 1.x uses the same ones, so a loader
    that brings its own needs none of them.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=64,
    )
    config = CLIPTextConfig(
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=32,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
    words = CLIPTextModel(config)
    unet.save_pretrained(path / "unet")
    vae.save_pretrained(path / "vae")
    write_json(path / "text_encoder" / "config.json", config.to_dict())
    # Folders made before transformers 5.6 have this prefix, newer ones do not: the older are many.
    weights = {
        f"text_model.{name.removeprefix('text_model.')}": value
        for name, value in words.state_dict().items()
    }
    write_safetensors(path / "text_encoder" / "model.safetensors", weights, "F32", {"format": "pt"})
    scheduler = {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    }
    write_json(path / "scheduler" / "scheduler_config.json", scheduler)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(path / "model_index.json", index)
    return path
