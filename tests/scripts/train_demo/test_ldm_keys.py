"""The way out to LDM names must be the exact inverse of diffusers' way in."""

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)

from scripts.train_demo.ldm_keys import (
    TEXT_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    text_to_ldm,
    unet_to_ldm,
    vae_to_ldm,
)
from scripts.train_demo.models import make_text, make_unet, make_vae


def _noise(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.randn_like(value) for name, value in weights.items()}


def _assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_unet_names_return_through_diffusers() -> None:
    unet = make_unet()
    weights = _noise(unet.state_dict())
    named = unet_to_ldm(weights)
    assert len(named) == 684
    assert all(name.startswith(UNET_PREFIX) for name in named)
    _assert_equal(convert_ldm_unet_checkpoint(dict(named), dict(unet.config)), weights)


def test_vae_names_return_through_diffusers() -> None:
    vae = make_vae()
    weights = _noise(vae.state_dict())
    named = vae_to_ldm(weights)
    assert len(named) == 248
    assert all(name.startswith(VAE_PREFIX) for name in named)
    assert named[VAE_PREFIX + "encoder.mid.attn_1.q.weight"].ndim == 4
    _assert_equal(convert_ldm_vae_checkpoint(dict(named), vae.config), weights)


def test_text_names_have_the_prefix_once() -> None:
    named = text_to_ldm(make_text().state_dict())
    assert TEXT_PREFIX + "embeddings.token_embedding.weight" in named
    assert not any("text_model.text_model" in name for name in named)
