"""A VAE layer by layer over tiles: the network's own result, within the bytes of a tile."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st

from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.memory.simulated import SimulatedDevice
from sdforge.memory.vae_mode import FULL, VaeMode
from sdforge.models.bundle import LatentFormat
from sdforge.models.edits import circular_padding
from sdforge.models.vae import Vae
from sdforge.models.vae_layers import LayerRun, attention_numbers, can_run

MIB = 2**20


def network(**options: Any) -> AutoencoderKL:
    """A VAE of Stable Diffusion's structure, small, of random weights."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4, "latent_channels": 4,
        "layers_per_block": 1, "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }  # fmt: skip
    return AutoencoderKL(**shape | options).eval().requires_grad_(False)


@cache
def kept_network() -> AutoencoderKL:
    """The same for every example."""
    return network()


@pytest.fixture(scope="module")
def plain() -> AutoencoderKL:
    return kept_network()


def layers(module: AutoencoderKL, tile: int, *, wraps: bool = False) -> LayerRun:
    weights = dict(module.state_dict())
    return LayerRun(module, weights.__getitem__, torch.device("cpu"), torch.float32, tile, wraps)


@settings(deadline=None, max_examples=12)
@given(
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    tile=st.integers(1, 12),
    wraps=st.booleans(),
)
def test_any_size_and_tile_give_the_networks_own_result(
    height: int, width: int, tile: int, wraps: bool
) -> None:
    module = kept_network()
    latents = torch.randn(1, 4, height, width)
    pixels = torch.rand(1, 3, 8 * height, 8 * width) * 2 - 1
    with torch.inference_mode(), circular_padding(module) if wraps else nullcontext():
        picture = module.decode(latents).sample
        moments = module.quant_conv(module.encoder(pixels))
        run = layers(module, tile, wraps=wraps)
        assert (run.decoded(latents) - picture).abs().max() < 1e-4
        assert (run.moments(pixels) - moments).abs().max() < 1e-4


def test_vaes_without_their_outer_convolutions_run_too() -> None:
    module = network(use_quant_conv=False, use_post_quant_conv=False, latent_channels=16)
    latents = torch.randn(1, 16, 6, 9)
    with torch.inference_mode():
        difference = layers(module, 4).decoded(latents) - module.decode(latents).sample
    assert difference.abs().max() < 1e-4


def test_other_networks_are_not_taken_for_one(plain: AutoencoderKL) -> None:
    assert can_run(plain)
    assert not can_run(torch.nn.Linear(2, 2))


def test_attention_over_a_large_picture_stays_small(plain: AutoencoderKL) -> None:
    # 4096²: keys and values of every place, and a bounded table of scores.
    assert attention_numbers(plain, 512, 512, 768) < 512 * 512 * 2 * 16 + 5 * 4 * 768**2


@pytest.mark.parametrize("way", ["decode", "encode"])
def test_tiles_stay_within_the_bytes_of_the_lease(way: str) -> None:
    device = SimulatedDevice(2**30)
    memory = MemoryManager(device)
    memory.inference_bytes = 0
    component = Component(role="vae", name="tiny", fingerprint="tiny", module=network())
    vae = Vae(component, memory, LatentFormat(channels=4, downscale=8, scale=0.18215))
    mode = VaeMode.tiled(8)
    size = (24, 32)

    def run(one: VaeMode) -> tuple[torch.Tensor, int]:
        device.reset_peak()
        if way == "decode":
            made = vae.decode(torch.ones(1, 4, *size), one)
        else:
            made = vae.encode(torch.full((1, 3, 8 * size[0], 8 * size[1]), 0.3), one)
        return made, device.peak_bytes

    whole, whole_bytes = run(FULL)
    tiled, tiled_bytes = run(mode)
    assert (whole - tiled).abs().max() * 255 < 0.1
    needed = next(iter(vae.ways(way, mode.tile, mode.tile)))[1]
    assert tiled_bytes <= component.total_bytes + needed
    assert tiled_bytes < whole_bytes
