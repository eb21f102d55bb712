"""Z-Image from a transformer, a VAE and Qwen3, each in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scripts.tiny_models import text, transformers, vae
from scripts.tiny_models.files import random_tensors, write_safetensors
from sdforge.core.errors import MissingModel
from sdforge.models.checkpoint import read_header
from sdforge.models.detect import detect
from sdforge.models.families import FAMILIES
from sdforge.sampling.flow_sigmas import FlowSigmas
from sdforge.sampling.sigmas import make_sigmas
from tests.models.families import peers
from tests.models.families.conftest import Draw
from tests.models.families.folders import saved
from tests.real_headers import z_image as real_z_image
from tests.tiny import sparse_checkpoint

PROMPT, AGAINST = "a photo of a cat (watercolour:1.2)", "blurry, too long a text"
STEPS = 2


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("z-image")
    made = {
        "z_image": transformers.z_image(context=32),
        "ae": vae.vae(vae.SIXTEEN),
        "qwen3": text.qwen3(),
    }
    return {
        name: write_safetensors(
            folder / f"{name}.safetensors", random_tensors(shapes, number), "F32"
        )
        for number, (name, shapes) in enumerate(made.items(), start=1)
    }


def beside(files: dict[str, Path]) -> dict[str, Path]:
    """The other files, by the folder of each."""
    return {"VAE": files["ae"], "text_encoder": files["qwen3"]}


@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
def test_z_image_draws_what_diffusers_draws(
    files: dict[str, Path], draw: Draw, tmp_path: Path, cfg_scale: float
) -> None:
    ours = draw(
        files["z_image"],
        modules=beside(files),
        prompt=PROMPT,
        negative_prompt=AGAINST,
        schedule="Simple",
        cfg_scale=cfg_scale,
    )
    sigmas = make_sigmas("Simple", STEPS, FlowSigmas(3.0))
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = peers.drawn(
        peers.z_image(files, tmp_path),
        sigmas[:-1],
        prompt=PROMPT,
        negative_prompt=AGAINST,
        latents=noise,
        # It adds its guidance to the prompt's own guess.
        guidance_scale=cfg_scale - 1,
        height=64,
        width=64,
    )
    assert (ours.latents - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_one_file_may_hold_everything_and_so_may_a_folder(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    prefixes = {
        "z_image": "model.diffusion_model.",
        "ae": "vae.",
        "qwen3": "text_encoders.qwen3_4b.transformer.",
    }
    whole = {
        prefix + key: tensor
        for name, prefix in prefixes.items()
        for key, tensor in load_file(files[name]).items()
    }
    file = write_safetensors(tmp_path / "all-in-one.safetensors", whole, "F32")
    values: dict[str, Any] = {"prompt": PROMPT, "steps": 1}
    wanted = draw(files["z_image"], modules=beside(files), **values).latents
    folder = saved(peers.z_image(files, tmp_path), tmp_path / "z-image-folder")
    for one in (file, folder):
        assert torch.allclose(draw(one, **values).latents, wanted, atol=1e-5), one.name


def test_memory_modes_draw_the_same(files: dict[str, Path], draw: Draw) -> None:
    values: dict[str, Any] = {"modules": beside(files), "prompt": PROMPT, "steps": 1}
    wanted = draw(files["z_image"], mode="normal", **values).latents
    for mode in ("medvram", "lowvram"):
        assert torch.equal(draw(files["z_image"], mode=mode, **values).latents, wanted), mode


def test_missing_parts_are_named(files: dict[str, Path], draw: Draw) -> None:
    with pytest.raises(MissingModel, match="no Qwen3 text encoder and no VAE"):
        draw(files["z_image"], prompt=PROMPT)


@pytest.mark.parametrize(
    ("name", "variant", "steps"),
    [("z_image_turbo_bf16", "turbo", 8), ("z_image_bf16", "standard", 28)],
)
def test_a_full_size_file_is_recognised_and_its_recipe_is_complete(
    tmp_path: Path, name: str, variant: str, steps: int
) -> None:
    path = sparse_checkpoint(tmp_path / f"{name}.safetensors", dict(real_z_image()))
    header = read_header(path)
    match = detect(header)
    assert (match.family, match.variant, match.problem) == ("zimage", variant, None)
    assert match.recommended.steps == steps
    recipe = FAMILIES.get("zimage").recipe("denoiser", header)
    unused = set(header.tensors) - {source.key for source in recipe.sources.values()}
    assert not unused
    assert recipe.skeleton.example.config["axes_dims"] == (32, 48, 48)
