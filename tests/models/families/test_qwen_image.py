"""Qwen-Image from a transformer, the VAE of Wan and Qwen2.5-VL, and from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.tiny_models import text, transformers, vae
from scripts.tiny_models.files import random_tensors, with_prefix, write_safetensors
from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.models.checkpoint import read_header
from sdforge.models.detect import detect
from sdforge.models.families import FAMILIES
from sdforge.sampling.flow_sigmas import FlowSigmas
from sdforge.sampling.sigmas import make_sigmas
from tests.models.families import more_peers, peers
from tests.models.families.conftest import Draw
from tests.models.families.folders import saved
from tests.real_headers import qwen_image as real_qwen_image
from tests.tiny import sparse_checkpoint

PROMPT = "a photo of a cat (watercolour:1.2)"
STEPS = 2


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("qwen-image")
    made = {
        "qwen": transformers.qwen_image(context=32),
        "vae": vae.video_vae(),
        "reader": text.qwen25(),
    }
    return {
        name: write_safetensors(
            folder / f"{name}.safetensors", random_tensors(shapes, number), "F32"
        )
        for number, (name, shapes) in enumerate(made.items(), start=1)
    }


def beside(files: dict[str, Path]) -> dict[str, Path]:
    """The other files, by the folder of each."""
    return {"VAE": files["vae"], "text_encoder": files["reader"]}


def test_qwen_image_draws_what_diffusers_draws(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    # Without guidance: diffusers changes the length of guided answers (decision 0136).
    values = {"prompt": PROMPT, "schedule": "Simple", "cfg_scale": 1.0, "width": 96}
    drawn = draw(files["qwen"], modules=beside(files), **values)
    pipe = more_peers.qwen_image(files, tmp_path)
    noise = torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(1))
    packed = peers.drawn(
        pipe,
        make_sigmas("Simple", STEPS, FlowSigmas(3.1))[:-1],
        prompt=PROMPT,
        latents=pipe._pack_latents(noise.unsqueeze(2), 1, 16, 8, 12),
        true_cfg_scale=1.0,
        height=64,
        width=96,
    )
    theirs = pipe._unpack_latents(packed, 64, 96, 8).squeeze(2)
    assert (drawn.latents - theirs).abs().max() < 1e-5 * theirs.abs().max()
    mean, std = (
        torch.tensor(numbers).view(1, 16, 1, 1, 1)
        for numbers in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
    )
    with torch.no_grad():
        picture = pipe.vae.decode(theirs.unsqueeze(2) * std + mean).sample.squeeze(2)
        again = pipe.vae.encode(picture.unsqueeze(2)).latent_dist.mean
    own = drawn.bundle.vae
    assert torch.allclose(own.decode(theirs), picture / 2 + 0.5, atol=1e-5)
    wanted = ((again - mean) / std).squeeze(2)
    assert torch.allclose(own.encode(picture / 2 + 0.5), wanted, atol=1e-4)
    folder = draw(saved(pipe, tmp_path / "qwen-folder"), **values).latents
    assert (folder - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_memory_modes_draw_the_same(files: dict[str, Path], draw: Draw) -> None:
    values: dict[str, Any] = {"modules": beside(files), "prompt": PROMPT, "steps": 1}
    wanted = draw(files["qwen"], mode="normal", **values).latents
    for mode in ("medvram", "lowvram"):
        assert torch.equal(draw(files["qwen"], mode=mode, **values).latents, wanted), mode


def test_a_reader_of_another_width_is_refused_with_the_reason(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    wider = with_prefix("", text.qwen25(width=48))
    other = write_safetensors(tmp_path / "qwen-3b.safetensors", random_tensors(wider), "F16")
    with pytest.raises(UnsupportedCheckpoint, match="width 32, qwen-3b gives 48: choose"):
        draw(files["qwen"], modules={**beside(files), "text_encoder": other}, prompt=PROMPT)


def test_missing_parts_are_named(files: dict[str, Path], draw: Draw) -> None:
    with pytest.raises(MissingModel, match="no Qwen2.5-VL text encoder and no VAE: choose qwen"):
        draw(files["qwen"], prompt=PROMPT)


@pytest.mark.parametrize(
    ("name", "variant", "steps"),
    [
        ("qwen_image_fp8_e4m3fn", "standard", 20),
        ("qwen-image-lightning-8steps", "lightning", 8),
    ],
)
def test_a_full_size_file_is_recognised_and_its_recipe_is_complete(
    tmp_path: Path, name: str, variant: str, steps: int
) -> None:
    path = sparse_checkpoint(tmp_path / f"{name}.safetensors", dict(real_qwen_image()))
    header = read_header(path)
    match = detect(header)
    assert (match.family, match.variant, match.problem) == ("qwen-image", variant, None)
    assert match.recommended.steps == steps
    recipe = FAMILIES.get("qwen-image").recipe("denoiser", header)
    assert {source.key for source in recipe.sources.values()} == set(header.tensors)
    assert recipe.skeleton.example.config["axes_dims_rope"] == (16, 56, 56)
