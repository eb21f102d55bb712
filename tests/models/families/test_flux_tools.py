"""Flux.1 Fill, which is shown a mask, and Kontext, which is shown a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from scripts.tiny_models import text, transformers, vae
from scripts.tiny_models.files import random_tensors, write_safetensors
from sdforge.models.checkpoint import read_header
from sdforge.models.denoiser import Conditioning
from sdforge.models.detect import detect
from sdforge.models.families import FAMILIES
from sdforge.models.flux_call import call_flux
from sdforge.pipeline.beside import fill_channels
from sdforge.sampling.flow_sigmas import FlowSigmas, flux_shift
from sdforge.sampling.sigmas import make_sigmas
from tests.models.families import more_peers, peers
from tests.models.families.conftest import Draw
from tests.real_headers import flux as real_flux
from tests.tiny import sparse_checkpoint

PROMPT = "a photo of a cat, watercolour"
STEPS = 2
SIGMAS = make_sigmas("Simple", STEPS, FlowSigmas(flux_shift(16)))[:-1]
ASKED: dict[str, Any] = {
    "prompt": PROMPT,
    "schedule": "Simple",
    "cfg_scale": 1.0,
    # Nobody names the distilled CFG scale: each is told its own.
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flux-tools")
    made = {
        "fill": transformers.flux(beside=320),
        "kontext": transformers.flux(),
        "ae": vae.vae(vae.SIXTEEN),
        "clip_l": text.clip(text.CLIP_L),
        "t5xxl": text.t5(),
    }
    tensors = {
        name: random_tensors(shapes, number)
        for number, (name, shapes) in enumerate(made.items(), start=1)
    }
    again = tensors["t5xxl"]["shared.weight"].clone()
    tensors["t5xxl"]["encoder.embed_tokens.weight"] = again
    return {
        name: write_safetensors(folder / f"{name}.safetensors", found, "F32")
        for name, found in tensors.items()
    }


def beside(files: dict[str, Path]) -> dict[str, Path]:
    """The other files, by the folder of each."""
    return {
        "VAE": files["ae"],
        "text_encoder:1": files["clip_l"],
        "text_encoder:2": files["t5xxl"],
    }


def test_kontext_sees_pictures_side_by_side(files: dict[str, Path], draw: Draw) -> None:
    """Two pictures of one height are, place by place, one picture of both."""
    drawn = draw(files["kontext"], modules=beside(files), steps=1, **ASKED)
    component, memory = drawn.bundle.components["denoiser"], drawn.pipeline.parts.memory
    made = torch.Generator().manual_seed(3)
    first, second = (torch.randn(1, 16, 8, width, generator=made) for width in (4, 6))
    conditioning = Conditioning(
        torch.randn(1, 8, 64, generator=made),
        torch.randn(1, 32, generator=made),
        numbers=torch.tensor([[2.5]]),
    )

    def said(*references: torch.Tensor) -> torch.Tensor:
        shown = replace(conditioning, references=references)
        with memory.lease(component) as module, torch.inference_mode():
            return call_flux(module, noise(), 0.5, shown)

    whole = torch.cat([first, second], dim=-1)
    assert (said(first, second) - said(whole)).abs().max() < 1e-5
    assert (said(second) - said(whole)).abs().max() > 1e-3


def noise() -> torch.Tensor:
    return torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))


def scene() -> Image.Image:
    """A picture that differs everywhere."""
    numbers = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(5))
    return Image.fromarray(numbers.to(torch.uint8).numpy())


def theirs(pipe: Any, distilled: float, **values: Any) -> torch.Tensor:
    packed = peers.drawn(
        pipe,
        SIGMAS,
        prompt=PROMPT,
        latents=pipe._pack_latents(noise(), 1, 16, 8, 8),
        guidance_scale=distilled,
        height=64,
        width=64,
        max_sequence_length=256,
        **values,
    )
    found: torch.Tensor = pipe._unpack_latents(packed, 64, 64, 8)
    return found


def test_fill_draws_what_diffusers_draws(
    files: dict[str, Path], draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    # It draws from the distribution of latents; here as everywhere their mean is taken.
    mean = DiagonalGaussianDistribution.mode
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator: mean(self))
    drawn = draw(files["fill"], modules=beside(files), **ASKED)
    pipe = more_peers.flux_tool("Fill", {**files, "flux": files["fill"]}, tmp_path)
    grey, all_of_it = torch.full((1, 3, 64, 64), 0.5), torch.ones(1, 1, 64, 64)
    wanted = theirs(pipe, 30.0, image=grey, mask_image=all_of_it)
    assert (drawn.latents - wanted).abs().max() < 1e-5 * wanted.abs().max()

    # What it is shown of a picture half of which is masked.
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 5:40, 11:] = 1
    with torch.no_grad():
        shown = pipe.prepare_mask_latents(
            mask, (picture * 2 - 1) * (1 - mask), 1, 16, 1, 64, 64, torch.float32, "cpu", None
        )
    ours = fill_channels(picture, mask, drawn.bundle.vae.encode)
    packed = torch.nn.functional.pixel_unshuffle(ours, 2).flatten(2).transpose(1, 2)
    assert torch.allclose(packed[..., :64], shown[1], atol=1e-5)
    assert torch.equal(packed[..., 64:], shown[0])


def test_kontext_draws_what_diffusers_draws(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    picture = scene()
    values: dict[str, Any] = {"modules": beside(files), **ASKED}
    pipe = more_peers.flux_tool("Kontext", {**files, "flux": files["kontext"]}, tmp_path)
    changed = theirs(pipe, 2.5, image=picture, _auto_resize=False, max_area=64 * 64)
    ours = draw(files["kontext"], picture=picture, **values).latents
    assert (ours - changed).abs().max() < 1e-5 * changed.abs().max()
    plain = theirs(pipe, 2.5, max_area=64 * 64)
    ours = draw(files["kontext"], **values).latents
    assert (ours - plain).abs().max() < 1e-5 * plain.abs().max()
    assert (plain - changed).abs().max() > 0.1


def test_memory_modes_draw_the_same(files: dict[str, Path], draw: Draw) -> None:
    values: dict[str, Any] = {"modules": beside(files), "prompt": PROMPT, "steps": 1}
    wanted = draw(files["fill"], mode="normal", **values).latents
    for mode in ("medvram", "lowvram"):
        assert torch.equal(draw(files["fill"], mode=mode, **values).latents, wanted), mode


@pytest.mark.parametrize(
    ("name", "channels", "variant", "steps", "distilled"),
    [("flux1-fill-dev", 384, "fill", 30, 30.0), ("flux1-kontext-dev", 64, "kontext", 28, 2.5)],
)
def test_a_full_size_file_is_recognised_and_its_recipe_is_complete(
    tmp_path: Path, name: str, channels: int, variant: str, steps: int, distilled: float
) -> None:
    shapes = dict(real_flux(guidance=True, channels=channels))
    header = read_header(sparse_checkpoint(tmp_path / f"{name}.safetensors", shapes))
    match = detect(header)
    assert (match.family, match.variant, match.problem) == ("flux", variant, None)
    assert match.recommended.steps == steps
    assert match.recommended.distilled_cfg_scale == distilled
    recipe = FAMILIES.get("flux").recipe("denoiser", header)
    assert {source.key for source in recipe.sources.values()} == set(header.tensors)
