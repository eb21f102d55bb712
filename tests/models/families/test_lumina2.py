"""Lumina 2 from a transformer, a VAE and a Gemma 2 that brings its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scripts.tiny_models import text, transformers, vae, words
from scripts.tiny_models.files import random_tensors, write_safetensors
from sdforge.core.errors import CorruptCheckpoint, MissingModel
from sdforge.models.checkpoint import read_header
from sdforge.models.detect import detect
from sdforge.models.families import FAMILIES
from sdforge.sampling.flow_sigmas import FlowSigmas
from sdforge.sampling.sigmas import make_sigmas
from tests.models.families import later_peers, peers
from tests.models.families.conftest import Draw
from tests.models.families.folders import saved
from tests.real_headers import lumina2 as real_lumina2
from tests.tiny import sparse_checkpoint

PROMPT, AGAINST = "a photo of a cat (watercolour:1.2)", "blurry, too long a text, ü"
STEPS = 2


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lumina2")
    made = {
        "lumina2": random_tensors(transformers.lumina2(), 1),
        "ae": random_tensors(vae.vae(vae.SIXTEEN), 2),
        "gemma2": random_tensors(text.gemma2(), 3) | words.carried(),
    }
    return {
        name: write_safetensors(folder / f"{name}.safetensors", tensors, "F32")
        for name, tensors in made.items()
    }


def beside(files: dict[str, Path]) -> dict[str, Path]:
    """The other files, by the folder of each."""
    return {"VAE": files["ae"], "text_encoder": files["gemma2"]}


@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
def test_lumina2_draws_what_diffusers_draws(
    files: dict[str, Path], draw: Draw, tmp_path: Path, cfg_scale: float
) -> None:
    values: dict[str, Any] = {
        "prompt": PROMPT,
        "negative_prompt": AGAINST,
        "schedule": "Simple",
        "cfg_scale": cfg_scale,
        "width": 96,
    }
    ours = draw(files["lumina2"], modules=beside(files), **values)
    pipe = later_peers.lumina2(files, tmp_path)
    theirs = peers.drawn(
        pipe,
        make_sigmas("Simple", STEPS, FlowSigmas(6.0))[:-1],
        prompt=PROMPT,
        negative_prompt=AGAINST,
        latents=torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(1)),
        guidance_scale=cfg_scale,
        # Guidance that means the same for all families, as in Qwen-Image (decision 0136).
        cfg_normalization=False,
        height=64,
        width=96,
    )
    assert (ours.latents - theirs).abs().max() < 1e-5 * theirs.abs().max()
    if cfg_scale == 2.0:
        folder = draw(saved(pipe, tmp_path / "lumina-folder"), **values).latents
        assert (folder - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_one_file_may_hold_everything(files: dict[str, Path], draw: Draw, tmp_path: Path) -> None:
    prefixes = {
        "lumina2": "model.diffusion_model.",
        "ae": "vae.",
        "gemma2": "text_encoders.gemma2_2b.transformer.",
    }
    whole = {
        prefix + key: tensor
        for name, prefix in prefixes.items()
        for key, tensor in load_file(files[name]).items()
    }
    file = write_safetensors(tmp_path / "all-in-one.safetensors", whole, "F32")
    values: dict[str, Any] = {"prompt": PROMPT, "steps": 1}
    wanted = draw(files["lumina2"], modules=beside(files), **values).latents
    assert torch.equal(draw(file, **values).latents, wanted)


def test_memory_modes_draw_the_same(files: dict[str, Path], draw: Draw) -> None:
    values: dict[str, Any] = {"modules": beside(files), "prompt": PROMPT, "steps": 1}
    wanted = draw(files["lumina2"], mode="normal", **values).latents
    for mode in ("medvram", "lowvram"):
        assert torch.equal(draw(files["lumina2"], mode=mode, **values).latents, wanted), mode


def test_an_own_instruction_takes_the_place_of_the_usual_one(
    files: dict[str, Path], draw: Draw
) -> None:
    values: dict[str, Any] = {"modules": beside(files), "steps": 1, "cfg_scale": 1.0}
    usual = (
        "You are an assistant designed to generate superior images with the superior degree of "
        "image-text alignment based on textual prompts or user prompts. <Prompt Start> a cat"
    )
    wanted = draw(files["lumina2"], prompt="a cat", **values).latents
    assert torch.equal(draw(files["lumina2"], prompt=usual, **values).latents, wanted)
    other = draw(files["lumina2"], prompt="Draw. <Prompt Start> a cat", **values).latents
    assert not torch.allclose(other, wanted, atol=1e-4)


def test_missing_parts_are_named(files: dict[str, Path], draw: Draw) -> None:
    with pytest.raises(MissingModel, match="no Gemma 2 text encoder and no VAE: choose gemma_2"):
        draw(files["lumina2"], prompt=PROMPT)


def test_without_a_tokenizer_the_file_that_would_do_is_named(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    tensors = {k: v for k, v in load_file(files["gemma2"]).items() if k != "spiece_model"}
    bare = write_safetensors(tmp_path / "gemma.safetensors", tensors, "F32")
    modules = {**beside(files), "text_encoder": bare}
    with pytest.raises(MissingModel, match=r"tokenizer of Gemma 2.*as gemma\.tokenizer\.json"):
        draw(files["lumina2"], modules=modules, prompt=PROMPT)


def test_a_tokenizer_that_counts_further_than_the_table_is_refused(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    tensors = random_tensors(text.gemma2(rows=300), 3) | words.carried()
    other = write_safetensors(tmp_path / "gemma.safetensors", tensors, "F32")
    modules = {**beside(files), "text_encoder": other}
    with pytest.raises(CorruptCheckpoint, match="another model: it counts to 383.*300 tokens"):
        draw(files["lumina2"], modules=modules, prompt=PROMPT)


def test_a_full_size_file_is_recognised_and_its_recipe_is_complete(tmp_path: Path) -> None:
    path = sparse_checkpoint(tmp_path / "lumina_2_model_bf16.safetensors", dict(real_lumina2()))
    header = read_header(path)
    match = detect(header)
    assert (match.family, match.variant, match.problem) == ("lumina2", "standard", None)
    assert (match.recommended.steps, match.recommended.cfg_scale) == (30, 4.0)
    recipe = FAMILIES.get("lumina2").recipe("denoiser", header)
    unused = set(header.tensors) - {source.key for source in recipe.sources.values()}
    assert unused == {"norm_final.weight"}
    config = recipe.skeleton.example.config
    assert config["axes_dim_rope"] == (32, 32, 32)
    assert (config["num_attention_heads"], config["num_kv_heads"]) == (24, 8)
