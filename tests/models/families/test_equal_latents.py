"""Each family's tiny file gives the latents that diffusers' own pipeline gives, in every mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.tiny_models.catalogue import refiner as refiner_shapes
from scripts.tiny_models.catalogue import sd1 as sd1_shapes
from scripts.tiny_models.catalogue import sd2 as sd2_shapes
from scripts.tiny_models.catalogue import sdxl as sdxl_shapes
from scripts.tiny_models.files import random_tensors, write_safetensors
from sdforge.sampling.sigmas import make_sigmas
from tests.models.families import peers
from tests.models.families.conftest import Draw
from tests.models.families.folders import saved

STEPS, PROMPT, AGAINST = 2, "a photo of a cat, watercolour", "blurry, text"
SHAPES: dict[str, Any] = {
    "sd1": sd1_shapes,
    "sd2": sd2_shapes,
    "sd2-v": sd2_shapes,
    "sdxl": sdxl_shapes,
    "sdxl-refiner": refiner_shapes,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


def tiny(folder: Path, kind: str) -> Path:
    """The tiny file of a kind, in fp32, written once."""
    path = folder / f"{kind}.safetensors"
    about = {"modelspec.prediction_type": "v" if kind.endswith("-v") else "epsilon"}
    if not path.exists():
        write_safetensors(path, random_tensors(SHAPES[kind](), 1), "F32", about)
    return path


def noise() -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def sigmas_of(bundle: Any) -> tuple[float, ...]:
    return make_sigmas("Normal", STEPS, bundle.denoiser)


def test_sd1_draws_what_diffusers_draws(folder: Path, draw: Draw) -> None:
    file = tiny(folder, "sd1")
    ours = draw(file, prompt=PROMPT, negative_prompt=AGAINST, schedule="Normal")
    theirs = peers.drawn(
        peers.sd1(file, folder / "peer-1"),
        sigmas_of(ours.bundle),
        prompt=PROMPT,
        negative_prompt=AGAINST,
        latents=noise(),
        guidance_scale=2.0,
        height=64,
        width=64,
    )
    assert peers.difference(ours.latents, theirs, ours.bundle.denoiser.sigma_max) < 1e-5


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_sd2_draws_what_diffusers_draws(folder: Path, draw: Draw, prediction: str) -> None:
    file = tiny(folder, "sd2" if prediction == "epsilon" else "sd2-v")
    ours = draw(file, prompt=PROMPT, negative_prompt=AGAINST, schedule="Normal")
    assert ours.bundle.denoiser.prediction == prediction
    pipe = peers.sd2(file, folder / "peer", "v_prediction" if prediction == "v" else "epsilon")
    theirs = peers.drawn(
        pipe,
        sigmas_of(ours.bundle),
        prompt=PROMPT,
        negative_prompt=AGAINST,
        latents=noise(),
        guidance_scale=2.0,
        height=64,
        width=64,
    )
    assert peers.difference(ours.latents, theirs, ours.bundle.denoiser.sigma_max) < 1e-5


@pytest.mark.parametrize("negative", [AGAINST, ""])
def test_sdxl_draws_what_diffusers_draws(folder: Path, draw: Draw, negative: str) -> None:
    file = tiny(folder, "sdxl")
    ours = draw(
        file,
        prompt=PROMPT,
        negative_prompt=negative,
        schedule="Normal",
        settings={"sdxl_crop_top": 16, "sdxl_crop_left": 8},
    )
    theirs = peers.drawn(
        peers.sdxl(file, folder / "peer-xl"),
        sigmas_of(ours.bundle),
        prompt=PROMPT,
        negative_prompt=negative or None,
        latents=noise(),
        guidance_scale=2.0,
        height=64,
        width=64,
        crops_coords_top_left=(16, 8),
        negative_crops_coords_top_left=(16, 8),
    )
    assert peers.difference(ours.latents, theirs, ours.bundle.denoiser.sigma_max) < 1e-5


def test_a_folder_of_sdxl_draws_what_the_file_draws(folder: Path, draw: Draw) -> None:
    file = tiny(folder, "sdxl")
    values: dict[str, Any] = {"prompt": PROMPT, "negative_prompt": AGAINST, "steps": 1}
    wanted = draw(file, **values)
    again = draw(saved(peers.sdxl(file, folder / "peer-xl"), folder / "sdxl-folder"), **values)
    largest = wanted.bundle.denoiser.sigma_max
    assert again.bundle.family == "sdxl"
    assert peers.difference(again.latents, wanted.latents, largest) < 1e-5


def test_the_refiner_draws_what_diffusers_draws(folder: Path, draw: Draw) -> None:
    file = tiny(folder, "sdxl-refiner")
    ours = draw(file, prompt=PROMPT, negative_prompt=AGAINST, schedule="Normal")
    sigmas = sigmas_of(ours.bundle)
    theirs = peers.drawn(
        peers.refiner(file, folder / "peer-refiner"),
        sigmas,
        prompt=PROMPT,
        negative_prompt=AGAINST,
        image=noise() * sigmas[0],
        denoising_start=1e-4,
        guidance_scale=2.0,
        original_size=(64, 64),
        target_size=(64, 64),
    )
    assert peers.difference(ours.latents, theirs, ours.bundle.denoiser.sigma_max) < 1e-5


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl", "sdxl-refiner"])
def test_memory_modes_draw_the_same(folder: Path, draw: Draw, kind: str) -> None:
    file = tiny(folder, kind)
    values = {"prompt": PROMPT, "negative_prompt": AGAINST, "steps": 1}
    wanted = draw(file, mode="normal", **values).latents
    for mode in ("medvram", "lowvram"):
        assert torch.equal(draw(file, mode=mode, **values).latents, wanted), mode
