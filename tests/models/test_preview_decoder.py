"""Small decoders of TAESD's kind: diffusers' network with the same weights, and which file fits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from scripts.tiny_models.files import random_tensors, write_safetensors
from scripts.tiny_models.vae import taef2_decoder
from scripts.train_demo.preview import make_decoder as diffusers_decoder
from scripts.train_demo.preview import taesd_name
from sdforge.core.device import probe
from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.core.paths import Paths, demo_folder
from sdforge.memory.device import open_device
from sdforge.memory.manager import MemoryManager
from sdforge.models.checkpoint import read_header
from sdforge.models.library import Library
from sdforge.models.loader import ModelProvider, choose_precision
from sdforge.models.preview_decoder import PreviewDecoders, decoder_recipe, make_decoder
from sdforge.models.vae import Vae

DEMO = demo_folder("VAE-approx") / "demo-taesd.safetensors"


@pytest.fixture(scope="module")
def vae_and_memory(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Vae, MemoryManager, Library]]:
    library = Library(Paths.under(tmp_path_factory.mktemp("demo")))
    device = probe(force_cpu=True)
    memory = MemoryManager(open_device(device))
    provider = ModelProvider(library, memory, precision=choose_precision(device))
    yield provider.get("").vae, memory, library
    provider.unload()


def test_it_computes_what_diffusers_network_computes() -> None:
    ours, theirs = make_decoder(4), diffusers_decoder()
    weights = {taesd_name(name): value for name, value in theirs.state_dict().items()}
    ours.load_state_dict(weights)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        # diffusers' decoder puts out −1 to 1.
        assert torch.allclose(ours(latents) * 2 - 1, theirs(latents), atol=1e-5)


def test_the_file_that_gives_back_what_the_vae_encoded_is_taken(
    vae_and_memory: tuple[Vae, MemoryManager, Library], tmp_path: Path
) -> None:
    vae, memory, library = vae_and_memory
    weights = load_file(DEMO)
    stranger = {name: torch.randn_like(value) * 0.05 for name, value in weights.items()}
    save_file(stranger, tmp_path / "a-stranger.safetensors")
    save_file({"x": torch.zeros(3)}, tmp_path / "b-nonsense.safetensors")
    prefixed = {f"decoder.{name}": value for name, value in weights.items()}
    save_file(prefixed, tmp_path / "c-whole.safetensors")
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    def decoded(*files: Path) -> torch.Tensor | None:
        decoders = PreviewDecoders(lambda: files, memory, compute=torch.float32)
        found = decoders.decode(vae, latents)
        assert decoders.unload() >= 0
        return found

    theirs = {f"decoder.layers.{int(n) - 1}.{rest}": value for (n, _, rest), value in
              ((name.partition("."), value) for name, value in weights.items())}  # fmt: skip
    torch.save(theirs, tmp_path / "d-as-diffusers-saves-it.pth")

    strangers = sorted(tmp_path.glob("[ab]-*"))
    assert decoded(*strangers) is None and decoded() is None
    own = decoded(*strangers, *library.preview_decoders())
    assert own is not None and own.shape == (1, 3, 128, 128)
    assert float(own.min()) >= 0 and float(own.max()) <= 1
    with_prefix = decoded(tmp_path / "c-whole.safetensors")
    assert with_prefix is not None and torch.equal(with_prefix, own)
    as_diffusers = decoded(tmp_path / "d-as-diffusers-saves-it.pth")
    assert as_diffusers is not None and torch.equal(as_diffusers, own)
    assert decoded(tmp_path / "gone.safetensors") is None


def test_taef2_adds_normalised_features_in_its_first_level(tmp_path: Path) -> None:
    weights = random_tensors(taef2_decoder(), seed=3)
    names = {name: f"decoder.{name}" for name in weights}
    path = write_safetensors(
        tmp_path / "taef2.safetensors", {names[n]: v for n, v in weights.items()}, "F32"
    )
    recipe = decoder_recipe(read_header(path))
    tensors = {name: weights[name] for name in recipe.sources}
    latents = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = recipe.skeleton.build(tensors).module(latents)
        wanted = by_definition(weights, latents)
    assert len(tensors) == len(weights)
    assert found.shape == (1, 3, 64, 64) and torch.allclose(found, wanted, atol=1e-5)


def by_definition(weights: dict[str, torch.Tensor], latents: torch.Tensor) -> torch.Tensor:
    """TAEF2's decoder, written down layer by layer."""

    def convolved(name: str, x: torch.Tensor) -> torch.Tensor:
        weight = weights[f"{name}.weight"]
        return F.conv2d(x, weight, weights.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def block(number: int, x: torch.Tensor) -> torch.Tensor:
        if f"{number}.pool.0.weight" in weights:
            gain, shift = (weights[f"{number}.pool.1.{part}"] for part in ("weight", "bias"))
            wide = F.group_norm(convolved(f"{number}.pool.0", x), 4, gain, shift)
            x = x + convolved(f"{number}.pool.3", wide.relu())
        inner = x
        for place in (0, 2, 4):
            inner = convolved(f"{number}.conv.{place}", inner.relu() if place else inner)
        return (inner + x).relu()

    x = convolved("1", torch.tanh(latents / 3) * 3).relu()
    for blocks, after in (((3, 4, 5), 7), ((8, 9, 10), 12), ((13, 14, 15), 17)):
        for number in blocks:
            x = block(number, x)
        x = convolved(f"{after}", F.interpolate(x, scale_factor=2, mode="nearest"))
    return convolved("19", block(18, x))


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    weights = load_file(DEMO)
    weights["18.conv.0.weight"] = weights["18.conv.0.weight"][:32].clone()
    for name, tensors in (("half", weights), ("other", {"y": torch.zeros(2)})):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(UnsupportedCheckpoint, match=name):
            decoder_recipe(read_header(tmp_path / f"{name}.safetensors"))
