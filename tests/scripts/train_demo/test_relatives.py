"""LoRA, ControlNet, preview decoder and upscaler must have the names that others read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from safetensors.torch import load_file

from scripts.tiny_models.vae import taesd_decoder
from scripts.train_demo import control, export, lora, preview, upscaler
from scripts.train_demo.adapt import Fit, noised, picture_error
from scripts.train_demo.models import make_unet
from sdforge.models.upscalers.networks import make_network
from tests.tiny_upscalers import esrgan_shape, random_weights


def test_a_lora_has_kohya_names_and_comes_back_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet = make_unet().eval()
    x, time, words = torch.randn(1, 4, 16, 16), torch.tensor([5]), torch.randn(1, 7, 192)
    made = lora.attach(unet, lora.EVERYWHERE, rank=4)
    for adapted in made.values():
        torch.nn.init.normal_(adapted.up.weight, std=0.3)
    with torch.no_grad():
        # The fresh U-Net ends in a closed layer, which would hide every change.
        unet.conv_out.weight.normal_()
        changed = unet(x, time, words).sample
    path = tmp_path / "lora.safetensors"
    lora.save(made, path, "a test")
    lora.detach(unet)
    stored = load_file(path)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert stored[f"{name}.lora_down.weight"].shape == (4, 64)
    assert stored[f"{name}.alpha"] == 4
    with torch.no_grad():
        without = unet(x, time, words).sample
        lora.load(unet, path)
        again = unet(x, time, words).sample
        lora.detach(unet)
        lora.load(unet, path, strength=0.0)
        nothing = unet(x, time, words).sample
    assert (again - changed).norm() < 0.01 * changed.norm()
    assert (without - changed).norm() > 0.1 * changed.norm()
    assert torch.equal(nothing, without)


def test_a_lora_for_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    made = {"lora_unet_nowhere": lora.Adapted(torch.nn.Linear(4, 4), 2)}
    lora.save(made, path, "a test")
    with pytest.raises(ValueError, match="lora_unet_nowhere"):
        lora.load(make_unet(), path)


def test_controlnet_names_return_through_diffusers() -> None:
    network = control.make_controlnet(make_unet())
    weights = {name: torch.randn_like(value) for name, value in network.state_dict().items()}
    named = control.controlnet_to_ldm(weights)
    assert all(name.startswith("control_model.") for name in named)
    back = convert_controlnet_checkpoint(dict(named), dict(network.config))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_a_controlnet_file_is_small_and_nearly_exact(tmp_path: Path) -> None:
    network = control.make_controlnet(make_unet())
    path = tmp_path / "control.safetensors"
    control.write(network, path)
    assert path.stat().st_size <= export.RELATIVE_LIMIT
    stored = load_file(path)
    for name, value in control.controlnet_to_ldm(network.state_dict()).items():
        assert (stored[name].float() - value).norm() <= 0.05 * value.norm() + 1e-6, name


def test_canny_finds_the_outline_of_a_disc_and_nothing_in_a_plain_picture() -> None:
    y, x = np.mgrid[:64, :64]
    picture = np.zeros((64, 64, 3), np.float32)
    assert not control.canny(picture).any()
    radius = np.hypot(x - 32, y - 32)
    picture[radius < 20] = (1, 0, 0)
    edges = control.canny(picture)
    assert edges.sum() > 90 and np.abs(radius[edges] - 20).max() < 2
    assert control.agreement(edges, edges) == 1
    assert control.agreement(edges, np.roll(edges, 12, 0)) < 0.5


def test_the_preview_decoder_has_taesds_names() -> None:
    shapes = {
        preview.taesd_name(name): tuple(value.shape)
        for name, value in preview.make_decoder().state_dict().items()
    }
    assert shapes == taesd_decoder()


def ncnn(layers: list[tuple[np.ndarray, np.ndarray] | np.ndarray]) -> tuple[str, bytes]:
    """A row of convolutions (filters, biases) and slopes as ncnn's tools write it."""
    lines, data = ["7767517", "9 9", "Input in 0 1 a"], b""
    for layer in layers:
        if isinstance(layer, tuple):
            filters, biases = layer
            width, _, side, _ = filters.shape
            lines.append(f"Convolution c 1 1 a b 0={width} 1={side} 6={filters.size}")
            data += upscaler.HALF_PRECISION_FLAG.to_bytes(4, "little")
            data += filters.astype("<f2").tobytes() + b"\0" * (filters.size * 2 % 4)
            data += biases.astype("<f4").tobytes()
        else:
            lines.append(f"PReLU p 1 1 a b 0={layer.size}")
            data += layer.astype("<f4").tobytes()
    return "\n".join(lines), data


def test_an_ncnn_upscaler_is_read_number_by_number() -> None:
    rng = np.random.default_rng(0)
    first = (rng.normal(size=(5, 3, 3, 3)), rng.normal(size=5))
    last = (rng.normal(size=(12, 5, 3, 3)), rng.normal(size=12))
    weights = upscaler.read_ncnn(*ncnn([first, rng.normal(size=5), last]))
    assert list(weights) == [
        *("body.0.weight", "body.0.bias", "body.1.weight", "body.2.weight", "body.2.bias")
    ]
    assert np.allclose(weights["body.2.weight"].numpy(), last[0], atol=2e-3)
    assert np.allclose(weights["body.0.bias"].numpy(), first[1])
    made = upscaler.Compact(weights)(torch.rand(1, 3, 6, 6))
    assert made.shape == (1, 3, 12, 12)


def test_an_ncnn_esrgan_becomes_the_network_that_runs_it() -> None:
    wanted = esrgan_shape(blocks=1)
    network = make_network(wanted)
    named = random_weights(wanted)
    names = [name.removesuffix(".weight") for name in named if name.endswith(".weight")]
    row = [(named[f"{name}.weight"].numpy(), named[f"{name}.bias"].numpy()) for name in names]
    weights = upscaler.esrgan_names(upscaler.read_ncnn(*ncnn(row)))
    network.load_state_dict(weights)
    for name, value in weights.items():
        assert torch.allclose(value, named[name], atol=2e-3), name
    with pytest.raises(ValueError, match="no ESRGAN"):
        upscaler.esrgan_names(upscaler.read_ncnn(*ncnn(row[:-1])))


def test_an_ncnn_file_of_another_length_is_refused() -> None:
    param, data = ncnn([(np.zeros((12, 3, 3, 3)), np.zeros(12))])
    with pytest.raises(ValueError, match="the file has"):
        upscaler.read_ncnn(param, data + b"more")
    with pytest.raises(ValueError, match="no layer 'Softmax'"):
        upscaler.read_ncnn(param + "\nSoftmax s 1 1 a b", data)


def test_a_fit_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def run(samples: int) -> tuple[float, int]:
        value = torch.nn.Parameter(torch.zeros(3))
        calls = 0

        def loss(count: int, rng: torch.Generator) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return (value - 1).pow(2).sum()

        Fit("test", samples, 0.05).run([value], loss, tmp_path)
        return float((value.detach() - 1).abs().max()), calls

    first, begun = run(800)
    again, calls = run(1600)
    assert (begun, calls) == (100, 100)
    assert again < first < 0.2


def test_the_exact_noise_leads_to_the_exact_picture() -> None:
    latents, noise = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    times = torch.tensor([0, 300, 700, 999])
    noisy = noised(latents, noise, times)
    assert picture_error(noise, latents, noisy, times) < 1e-6
    assert picture_error(noise + 0.1, latents, noisy, times) > 1e-2
