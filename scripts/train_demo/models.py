"""The three networks of the demo model, built from the classes that ordinary loaders use.

The shapes follow Stable Diffusion 1.5 block by block at a fraction of its width, so that every
tool which knows SD 1.5's key names finds what it expects.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

UNET_GROUPS = 16
VAE_GROUPS = 8
CONTEXT = 192
PLACES = 77
VOCABULARY = 49408
START_TOKEN, END_TOKEN = 49406, 49407
SCALE = 0.18215
TRAIN_STEPS = 1000


def make_unet() -> UNet2DConditionModel:
    """The denoiser, with every residual branch closed at the start as in the original LDM code.

    A closed branch (zero last layer) makes the fresh network an identity-like map, which learns
    markedly faster in the few thousand steps a CPU can afford.
    """
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128, 128, 128),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=CONTEXT,
        attention_head_dim=8,
        norm_num_groups=UNET_GROUPS,
    )
    closed = ("conv2", "proj_out", "conv_out")
    for name, module in unet.named_modules():
        if name.rpartition(".")[2] in closed and isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return unet


def make_vae() -> AutoencoderKL:
    """The autoencoder: 8x smaller each way, four latent channels."""
    return AutoencoderKL(
        block_out_channels=(32, 64, 128, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=VAE_GROUPS,
        latent_channels=4,
        sample_size=128,
        scaling_factor=SCALE,
    )


def make_text() -> CLIPTextModel:
    """The text encoder in CLIP's shape."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=CONTEXT,
            intermediate_size=4 * CONTEXT,
            num_hidden_layers=4,
            num_attention_heads=CONTEXT // 64,
            max_position_embeddings=PLACES,
            hidden_act="quick_gelu",
            bos_token_id=START_TOKEN,
            eos_token_id=END_TOKEN,
            pad_token_id=END_TOKEN,
        )
    )


def alphas_cumprod() -> torch.Tensor:
    """Signal share of each of the 1000 steps: SD's scaled-linear schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TRAIN_STEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()
