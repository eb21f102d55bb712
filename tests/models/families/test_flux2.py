"""Flux.2 [klein] from a transformer, a VAE of its own and Qwen3, each in a file of its own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from scripts.tiny_models import text, transformers, vae
from scripts.tiny_models.files import random_tensors, write_safetensors, write_scaled_fp8
from sdforge.core.device import probe
from sdforge.core.errors import MissingModel
from sdforge.memory.device import open_device
from sdforge.memory.manager import MemoryManager
from sdforge.models import preview_decoder
from sdforge.models.checkpoint import read_header
from sdforge.models.detect import detect
from sdforge.models.families import FAMILIES
from sdforge.models.opening import open_model
from sdforge.sampling.flow_sigmas import FlowSigmas, flux2_shift
from sdforge.sampling.sigmas import make_sigmas
from tests.models.families import flux2_peers, peers
from tests.models.families.conftest import Draw
from tests.models.families.folders import saved
from tests.real_headers import FLUX2_9B
from tests.real_headers import flux2 as real_flux2
from tests.real_headers import flux2_vae as real_vae
from tests.tiny import sparse_checkpoint

PROMPT, AGAINST = "a photo of a cat (watercolour:1.2)", ""
STEPS = 2
SIGMAS = make_sigmas("Simple", STEPS, FlowSigmas(flux2_shift(16, STEPS)))[:-1]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flux2")
    made = {
        "klein": transformers.flux2(),
        "vae": vae.flux2_vae(),
        "qwen3": text.qwen3(layers=28),
    }
    return {
        name: write_safetensors(
            folder / f"{name}.safetensors", random_tensors(shapes, number), "F32"
        )
        for number, (name, shapes) in enumerate(made.items(), start=1)
    }


@pytest.fixture(scope="module")
def pipe(files: dict[str, Path]) -> Any:
    return flux2_peers.klein(files)


def beside(files: dict[str, Path]) -> dict[str, Path]:
    """The other files, by the folder of each."""
    return {"VAE": files["vae"], "text_encoder": files["qwen3"]}


def theirs(pipe: Any, **values: Any) -> torch.Tensor:
    noise = torch.randn(1, 128, 4, 4, generator=torch.Generator().manual_seed(1))
    found = peers.drawn(pipe, SIGMAS, prompt=PROMPT, latents=noise, height=64, width=64, **values)
    latents: torch.Tensor = flux2_peers.spread(pipe, found)
    return latents


def scene() -> Image.Image:
    """A picture that differs everywhere."""
    numbers = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(5))
    return Image.fromarray(numbers.to(torch.uint8).numpy())


def test_klein_draws_what_diffusers_draws(files: dict[str, Path], draw: Draw, pipe: Any) -> None:
    ours = draw(
        files["klein"],
        modules=beside(files),
        prompt=PROMPT,
        negative_prompt=AGAINST,
        schedule="Simple",
        cfg_scale=3.0,
    )
    wanted = theirs(pipe, guidance_scale=3.0)
    assert (ours.latents - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_klein_changes_a_picture_as_diffusers_does(
    files: dict[str, Path], draw: Draw, pipe: Any
) -> None:
    picture = scene()
    values: dict[str, Any] = {"modules": beside(files), "prompt": PROMPT, "schedule": "Simple"}
    ours = draw(files["klein"], picture=picture, cfg_scale=1.0, **values)
    wanted = theirs(pipe, guidance_scale=1.0, image=picture)
    assert (ours.latents - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (theirs(pipe, guidance_scale=1.0) - wanted).abs().max() > 0.1
    needed = ours.bundle.denoiser.working_bytes
    assert 1.4 < needed(1, 64, 64, referred=64 * 64) / needed(1, 64, 64) < 2.1


@pytest.mark.parametrize("with_picture", [True, False])
def test_klein_refers_to_several_pictures_as_diffusers_does(
    files: dict[str, Path], draw: Draw, pipe: Any, with_picture: bool
) -> None:
    """The picture of img2img comes first; txt2img has none."""
    further = [scene().resize((64, 80)), scene().rotate(180).resize((80, 64))]
    own = [scene()] * with_picture
    values: dict[str, Any] = {"modules": beside(files), "prompt": PROMPT, "schedule": "Simple"}
    ours = draw(
        files["klein"], picture=own[0] if own else None, references=further, cfg_scale=1.0, **values
    )
    wanted = theirs(pipe, guidance_scale=1.0, image=[*own, *further])
    assert (ours.latents - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_one_file_may_hold_everything_and_so_may_a_folder(
    files: dict[str, Path], draw: Draw, pipe: Any, tmp_path: Path
) -> None:
    prefixes = {
        "klein": "model.diffusion_model.",
        "vae": "vae.",
        "qwen3": "text_encoders.qwen3_4b.transformer.",
    }
    whole = {
        prefix + key: tensor
        for name, prefix in prefixes.items()
        for key, tensor in load_file(files[name]).items()
    }
    file = write_safetensors(tmp_path / "all-in-one.safetensors", whole, "F32")
    values: dict[str, Any] = {"prompt": PROMPT, "steps": 1}
    wanted = draw(files["klein"], modules=beside(files), **values).latents
    folder = saved(pipe, tmp_path / "klein-folder")
    for one in (file, folder):
        assert torch.allclose(draw(one, **values).latents, wanted, atol=1e-5), one.name


def test_memory_modes_draw_the_same(files: dict[str, Path], draw: Draw) -> None:
    values: dict[str, Any] = {"modules": beside(files), "prompt": PROMPT, "steps": 1}
    wanted = draw(files["klein"], mode="normal", **values).latents
    for mode in ("medvram", "lowvram"):
        assert torch.equal(draw(files["klein"], mode=mode, **values).latents, wanted), mode


def test_missing_parts_are_named(files: dict[str, Path], draw: Draw) -> None:
    with pytest.raises(MissingModel, match="no Qwen3 text encoder and no VAE"):
        draw(files["klein"], prompt=PROMPT)


def test_tiles_of_a_large_picture_are_the_whole_picture(files: dict[str, Path], draw: Draw) -> None:
    """Layer by layer, as other VAEs run where memory lacks, and with sides that no patch fills."""
    from sdforge.memory.vae_mode import VaeMode

    own = draw(files["klein"], modules=beside(files), prompt=PROMPT, steps=1).bundle.vae
    latents = torch.randn(1, 128, 5, 9, generator=torch.Generator().manual_seed(3))
    whole = own.decode(latents)
    assert whole.shape == (1, 3, 80, 144)
    assert torch.allclose(own.decode(latents, VaeMode.tiled(4)), whole, atol=1e-4)
    picture = torch.rand(1, 3, 88, 152, generator=torch.Generator().manual_seed(3))
    assert own.encode(picture).shape == latents.shape
    tiled = own.encode(picture, VaeMode.tiled(4))
    assert torch.allclose(tiled, own.encode(picture), atol=1e-4)


def test_a_small_decoder_shows_its_previews(
    files: dict[str, Path], draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview_decoder, "LEAST_DB", -100.0)  # random weights give nothing back
    taef2 = random_tensors(vae.taef2_decoder(), 1)
    path = write_safetensors(tmp_path / "taef2.safetensors", taef2, "F32")
    own = draw(files["klein"], modules=beside(files), prompt=PROMPT, steps=1).bundle.vae
    latents = torch.randn(1, 128, 2, 3, generator=torch.Generator().manual_seed(3))
    memory = MemoryManager(open_device(probe(force_cpu=True)))
    decoders = preview_decoder.PreviewDecoders(lambda: [path], memory, compute=torch.float32)
    found = decoders.decode(own, latents)
    decoders.unload()
    network = preview_decoder.make_decoder(32, has_pools=True)
    network.load_state_dict(taef2)
    with torch.inference_mode():
        wanted = network(F.pixel_shuffle(latents, 2)).clamp(0, 1)
    assert found is not None and found.shape == (1, 3, 32, 48)
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "sizes", "variant", "steps", "cfg_scale"),
    [
        ("flux-2-klein-4b", {}, "distilled", 4, 1.0),
        ("flux-2-klein-base-9b", FLUX2_9B, "base", 50, 4.0),
    ],
)
def test_a_full_size_file_is_recognised_and_its_recipe_is_complete(
    tmp_path: Path, name: str, sizes: dict[str, int], variant: str, steps: int, cfg_scale: float
) -> None:
    path = sparse_checkpoint(tmp_path / f"{name}.safetensors", dict(real_flux2(**sizes)))
    header = read_header(path)
    match = detect(header)
    assert (match.family, match.variant, match.problem) == ("flux2-klein", variant, None)
    assert (match.recommended.steps, match.recommended.cfg_scale) == (steps, cfg_scale)
    recipe = FAMILIES.get("flux2-klein").recipe("denoiser", header)
    assert {source.key for source in recipe.sources.values()} == set(header.tensors)
    assert recipe.skeleton.example.config["axes_dims_rope"] == (32, 32, 32, 32)


def test_the_published_vaes_are_whole(tmp_path: Path) -> None:
    """Also with the smaller decoder that its authors published later."""
    shapes = real_vae()
    small = {
        key: tuple(side * 3 // 4 if side >= 128 else side for side in shape)
        if key.startswith("decoder.") and "post_quant_conv" not in key
        else shape
        for key, shape in shapes.items()
    }
    for name, made in (("flux2-vae", shapes), ("small", small)):
        header = open_model(sparse_checkpoint(tmp_path / f"{name}.safetensors", made))
        recipe = FAMILIES.get("flux2-klein").recipe("vae", header)
        assert {source.key for source in recipe.sources.values()} == set(header.tensors)


def test_the_shift_is_that_of_the_authors() -> None:
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    for tokens in (16, 1024, 4096, 4300, 4301, 16384):
        for steps in (1, 4, 28, 50, 200):
            wanted = math.exp(compute_empirical_mu(tokens, steps))
            assert flux2_shift(tokens, steps) == pytest.approx(wanted)


def test_fp8_weights_draw_what_their_numbers_draw(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    """With a scale beside each matrix, as the authors publish them."""
    scaled = write_scaled_fp8(tmp_path / "klein-fp8.safetensors", load_file(files["klein"]))
    numbers = load_file(scaled)
    meant = {
        key: tensor.float() * numbers.get(f"{key[: -len('weight')]}scale_weight", torch.tensor(1.0))
        for key, tensor in numbers.items()
        if not key.endswith(("scale_weight", "scaled_fp8"))
    }
    plain = write_safetensors(tmp_path / "plain.safetensors", meant, "F32")
    values: dict[str, Any] = {"modules": beside(files), "prompt": PROMPT, "steps": 1}
    drawn = draw(scaled, **values)
    kept = {master.stored.dtype for master in drawn.bundle.components["denoiser"].masters}
    assert torch.float8_e4m3fn in kept
    assert torch.equal(drawn.latents, draw(plain, **values).latents)
