from pathlib import Path

import pytest
import torch
from torch import nn

from sdforge.core.errors import SdforgeError
from sdforge.core.settings import Settings
from sdforge.memory.component import Component
from sdforge.memory.device import HostDevice
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.bundle import LatentFormat, ModelBundle
from sdforge.models.loader import Precision
from sdforge.models.vae import Vae
from tests.tiny import GIB, Parts, tiny_server_parts


def latents(rows: int = 2, side: int = 6) -> torch.Tensor:
    return torch.randn(rows, 4, side, side + 2, generator=torch.Generator().manual_seed(1))


def test_decoding_gives_pictures_of_eight_times_the_size_from_0_to_1(bundle: ModelBundle) -> None:
    pixels = bundle.vae.decode(latents())
    assert pixels.shape == (2, 3, 48, 64)
    assert pixels.dtype == torch.float32
    assert 0 <= pixels.min() < pixels.max() <= 1


def test_decoding_is_the_networks_own_at_the_scale_of_sd(
    loaded: Parts, bundle: ModelBundle
) -> None:
    with loaded.memory.lease(bundle.components["vae"]) as module, torch.no_grad():
        wanted = module.decode(latents() / 0.18215).sample
    got = bundle.vae.decode(latents())
    assert torch.allclose(got, (wanted / 2 + 0.5).clamp(0, 1), atol=1e-5)


def test_a_picture_does_not_depend_on_its_batch(bundle: ModelBundle) -> None:
    both = bundle.vae.decode(latents())
    assert torch.equal(both[1:], bundle.vae.decode(latents()[1:]))


def test_encoding_gives_the_mean_latents_at_the_scale_of_sd(
    loaded: Parts, bundle: ModelBundle
) -> None:
    pixels = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(2))
    with loaded.memory.lease(bundle.components["vae"]) as module, torch.no_grad():
        wanted = module.encode(pixels * 2 - 1).latent_dist.mean * 0.18215
    got = bundle.vae.encode(pixels)
    assert got.shape == (2, 4, 8, 6)
    assert torch.allclose(got, wanted, atol=1e-5)


def test_working_bytes_follow_pixels_and_type(bundle: ModelBundle) -> None:
    vae = bundle.vae
    # SD's VAE is four times as wide; 768 bytes per pixel and byte of a number were traced there.
    decoding, encoding = (vae.ways(way, 64, 64)[0][1] for way in ("decode", "encode"))
    assert decoding == pytest.approx(512 * 512 * 768 * 4 * 2.8 / 4, rel=1e-3)
    assert encoding < decoding


class _Overflowing(nn.Module):
    """Decodes to not-a-number in any type but fp32, as SD's VAE may in fp16."""

    def __init__(self, always: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 4), 0.25, dtype=torch.bfloat16), False)
        self.always = always
        self.types: list[torch.dtype] = []

    def decode(self, x: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        assert not return_dict
        self.types.append(self.weight.dtype)
        picture = torch.einsum("nchw,rc->nrhw", x, self.weight)
        broken = self.always or self.weight.dtype != torch.float32
        return (picture * float("nan") if broken else picture,)


def overflowing(loaded: Parts, always: bool = False) -> tuple[Vae, _Overflowing]:
    module = _Overflowing(always)
    component = Component(role="vae", name="x", fingerprint="x", module=module)
    return Vae(component, loaded.memory, LatentFormat(channels=4, downscale=1, scale=1.0)), module


def test_a_picture_that_overflows_is_decoded_again_in_fp32(loaded: Parts) -> None:
    vae, module = overflowing(loaded)
    pixels = vae.decode(torch.ones(1, 4, 2, 2))
    assert torch.allclose(pixels, torch.ones(1, 3, 2, 2))
    assert module.types == [torch.bfloat16, torch.float32]
    assert module.weight.dtype == torch.bfloat16

    vae.decode(torch.ones(1, 4, 2, 2))
    assert module.types[2:] == [torch.float32]


@pytest.mark.parametrize("mode", ["normal", "lowvram"])
def test_fp32_weights_are_the_same_wherever_the_weights_lie(
    tmp_path: Path, checkpoint: Path, mode: str
) -> None:
    half = Precision(torch.float32, torch.float32, torch.bfloat16)
    pictures = []
    for device in (HostDevice(GIB), SimulatedDevice(GIB)):
        parts = tiny_server_parts(
            tmp_path / type(device).__name__,
            checkpoint,
            device=device,
            precision=half,
            unit_cap_bytes=50_000,
        )
        parts.memory.configure(Settings(memory_mode=mode))
        vae = parts.provider.get("").vae
        vae._needs_fp32 = True
        pictures.append(vae.decode(latents(1)))
    assert torch.equal(*pictures)


def test_latents_of_not_a_number_are_a_clear_error(loaded: Parts) -> None:
    vae, _ = overflowing(loaded, always=True)
    with pytest.raises(SdforgeError, match="--no-half"):
        vae.decode(torch.ones(1, 4, 2, 2))


def test_encoding_with_noise_draws_from_the_distribution(
    loaded: Parts, bundle: ModelBundle
) -> None:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    with loaded.memory.lease(bundle.components["vae"]) as module, torch.no_grad():
        found = module.encode(pixels * 2 - 1).latent_dist
        wanted = (found.mean + found.std * noise) * 0.18215
    assert torch.allclose(bundle.vae.encode(pixels, noise=noise), wanted, atol=1e-5)
    assert torch.equal(bundle.vae.encode(pixels, noise=noise * 0), bundle.vae.encode(pixels))


def test_tiling_lets_a_decoder_go_on_from_edge_to_edge(bundle: ModelBundle) -> None:
    x = latents(1)
    tiled = bundle.vae.decode(x, tiling=True)
    rolled = bundle.vae.decode(x.roll(3, -1), tiling=True)
    assert torch.allclose(rolled, tiled.roll(24, -1), atol=1e-3)
    assert not torch.allclose(tiled, bundle.vae.decode(x), atol=1e-3)
