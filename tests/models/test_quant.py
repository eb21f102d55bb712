"""Storage types: what they save, what they cost in a picture, and which are not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from sdforge.core.errors import InvalidRequest, NotAvailable
from sdforge.core.settings import STORAGE_TYPES, Settings
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.quant import Storage, choose_storage, convert, kept, packable
from tests.pipeline.conftest import Pipeline
from tests.tiny import GIB, Parts, tiny_server_parts

F32, F16 = torch.float32, torch.float16


def unpacked(weight: torch.Tensor, packing: str, compute: torch.dtype = F32) -> torch.Tensor:
    """Pack a weight and unpack it again."""
    shape = tuple(weight.shape)
    how = kept(Storage(compute, packing), shape, weight.dtype, packs=True)
    stored = torch.empty(how.shape, dtype=how.dtype)
    if how.pack is not None:
        how.pack(weight, stored)
    else:
        convert(weight, stored)
    assert how.decode is not None
    return how.decode(stored)


@pytest.mark.parametrize(
    ("packing", "error"),
    # Half of the last place of the mantissa; int8 of the largest number of the channel.
    [("float16", 2**-11), ("bfloat16", 2**-8), ("float8-e4m3fn", 2**-4), ("float8-e5m2", 2**-3)],
)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1.0, 10.0, 40.0]))
def test_a_cast_weight_comes_back_within_the_types_precision(
    packing: str, error: float, seed: int, scale: float
) -> None:
    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(seed)) * scale
    weight = torch.where(weight.abs() < 0.02 * scale, 0.02 * scale, weight)  # no subnormals
    assert ((unpacked(weight, packing) - weight).abs() <= error * weight.abs() * 1.001).all()


@given(seed=st.integers(0, 1000), scales=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9))
def test_int8_is_exact_to_half_a_step_of_each_channel(seed: int, scales: list[float]) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(len(scales), 24, generator=generator) * torch.tensor(scales)[:, None]
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((unpacked(weight, "int8") - weight).abs() <= step * 0.5001).all()


def test_int8_keeps_a_channel_of_zeros() -> None:
    weight = torch.zeros(3, 8)
    weight[1] = 5.0
    assert torch.equal(unpacked(weight, "int8"), weight)


def test_numbers_too_large_for_8_bits_saturate() -> None:
    weight = torch.tensor([[1e6, -1e6, 1.0]])
    assert unpacked(weight, "float8-e4m3fn").tolist() == [[448.0, -448.0, 1.0]]
    assert unpacked(weight, "float8-e5m2").tolist() == [[57344.0, -57344.0, 1.0]]


def test_unpacked_weights_have_the_compute_type() -> None:
    for packing in ("float8-e4m3fn", "float8-e5m2", "int8"):
        assert unpacked(torch.ones(8, 8), packing, F16).dtype is F16


def test_a_storage_type_as_wide_as_the_compute_type_packs_nothing() -> None:
    assert choose_storage(F16, "float16") == Storage(F16)
    assert choose_storage(F16, "bfloat16") == Storage(F16)
    assert choose_storage(F32, "float16") == Storage(F32, "float16")
    assert choose_storage(F16, "float8-e5m2 (fp16 LoRA)") == Storage(F16, "float8-e5m2")


@pytest.mark.parametrize("choice", STORAGE_TYPES)
def test_every_value_of_the_setting_is_understood(choice: str) -> None:
    if choice.startswith("bnb"):
        with pytest.raises(NotAvailable, match=r"package bitsandbytes.*take one of Automatic"):
            choose_storage(F32, choice)
    else:
        assert choose_storage(F32, choice).compute is F32


def test_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="forge_unet_storage_dtype.*float3"):
        choose_storage(F32, "float3")


def test_norms_biases_embeddings_and_the_ends_are_not_packed() -> None:
    net = nn.Sequential(
        nn.Conv2d(4, 64, 3), nn.GroupNorm(8, 64), nn.Conv2d(64, 64, 3), nn.Embedding(99, 64),
        nn.Linear(64, 128), nn.Linear(8, 8), nn.Conv2d(64, 64, 3),
    )  # fmt: skip
    assert packable(net) == {"2.weight", "4.weight"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """The shipped model over an accelerator: copies are unpacked there."""
    parts = tiny_server_parts(tmp_path_factory.mktemp("demo"), device=SimulatedDevice(8 * GIB))
    yield parts
    parts.provider.unload()


def drawn(parts: Parts, choice: str) -> np.ndarray:
    parts.provider.configure(Settings(forge_unet_storage_dtype=choice))
    pictures = Pipeline(parts).draw(
        prompt="a panda, blue background", width=128, height=128, steps=10, sampler="Euler"
    )
    return pictures[0].pixels.astype(np.float64)


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    """Peak signal to noise in dB; 30 is hard to tell apart by eye."""
    return float(10 * np.log10(255**2 / max(np.mean((one - two) ** 2), 1e-9)))


def denoiser_bytes(parts: Parts) -> int:
    assert parts.provider.current
    return parts.provider.current.components["denoiser"].total_bytes


@pytest.mark.slow
def test_pictures_from_packed_weights_are_close_and_bytes_really_fewer(demo: Parts) -> None:
    full = drawn(demo, "Automatic")
    full_bytes = denoiser_bytes(demo)
    # The file holds fp16, so keeping that loses nothing.
    assert np.array_equal(drawn(demo, "float16"), full)
    assert denoiser_bytes(demo) < 0.51 * full_bytes
    for choice, decibels in (("float8-e4m3fn", 34), ("int8", 42)):
        assert psnr(drawn(demo, choice), full) > decibels, choice
        assert denoiser_bytes(demo) < 0.27 * full_bytes, choice
    # All are in memory now, and text encoder and VAE once.
    roles = [row.role for row in demo.provider.report().components]
    assert sorted(roles) == ["denoiser"] * 4 + ["text_encoder", "vae"]


def test_a_file_of_8_bit_numbers_is_kept_and_mapped_as_it_is(
    tmp_path: Path, checkpoint: Path
) -> None:
    path = tmp_path / "eight.safetensors"
    tensors = {
        key: tensor.to(torch.float8_e4m3fn) if key.startswith("model.") else tensor
        for key, tensor in load_file(checkpoint).items()
    }
    save_file(tensors, path)
    parts = tiny_server_parts(tmp_path / "data", path, device=SimulatedDevice(8 * GIB))
    denoiser = parts.provider.get("eight").components["denoiser"]
    large = denoiser.master("mid_block.resnets.0.conv1.weight")
    norm = denoiser.master("mid_block.resnets.0.norm1.weight")
    assert (large.stored.dtype, norm.stored.dtype) == (torch.float8_e4m3fn, F32)
    assert denoiser.arenas[0].total_bytes < 0.3 * denoiser.total_bytes
    with parts.memory.lease(denoiser) as module:
        assert module.mid_block.resnets[0].conv1.weight.dtype is F32
        wanted = tensors["model.diffusion_model.middle_block.0.in_layers.2.weight"].float()
        assert torch.equal(module.mid_block.resnets[0].conv1.weight, wanted)


def test_a_type_that_is_not_there_leaves_the_loaded_model_alone(
    tmp_path: Path, checkpoint: Path
) -> None:
    parts = tiny_server_parts(tmp_path, checkpoint)
    old = parts.provider.get("tiny")
    parts.provider.configure(Settings(forge_unet_storage_dtype="bnb-nf4"))
    with pytest.raises(NotAvailable, match="bitsandbytes"):
        parts.provider.get("tiny")
    assert parts.provider.current is old
