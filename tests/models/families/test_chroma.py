"""Chroma from a transformer, a VAE and T5, each in a file of its own, and from a folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.tiny_models import text, transformers, vae
from scripts.tiny_models.files import random_tensors, write_safetensors
from sdforge.core.errors import MissingModel
from sdforge.models.checkpoint import read_header
from sdforge.models.detect import detect
from sdforge.models.families import FAMILIES
from sdforge.models.tokenizers import t5_tokenizer
from sdforge.sampling.flow_sigmas import FlowSigmas
from sdforge.sampling.sigmas import make_sigmas
from tests.models.families import more_peers, peers
from tests.models.families.conftest import Draw
from tests.models.families.folders import saved
from tests.real_headers import chroma as real_chroma
from tests.tiny import sparse_checkpoint

# As many tokens on both sides: so diffusers' pipeline, which pads both to one length, can be told
# to pad by one token. Padding beyond that it weighs down instead of hiding it (decision 0135).
PROMPT, AGAINST = "a photo of a cat", "a photo of a dog"
STEPS = 2


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("chroma")
    made = {"chroma": transformers.chroma(), "ae": vae.vae(vae.SIXTEEN), "t5xxl": text.t5()}
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
    return {"VAE": files["ae"], "text_encoder": files["t5xxl"]}


def test_chroma_draws_what_diffusers_draws(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    values = {"prompt": PROMPT, "negative_prompt": AGAINST, "schedule": "Simple"}
    ours = draw(files["chroma"], modules=beside(files), **values).latents
    sigmas = make_sigmas("Simple", STEPS, FlowSigmas(math.e))
    pipe = more_peers.chroma(files, tmp_path)
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    counts = {len(t5_tokenizer()(one)) for one in (PROMPT, AGAINST)}
    assert len(counts) == 1
    packed = peers.drawn(
        pipe,
        sigmas[:-1],
        prompt=PROMPT,
        negative_prompt=AGAINST,
        latents=pipe._pack_latents(noise, 1, 16, 8, 8),
        guidance_scale=2.0,
        height=64,
        width=64,
        # One end mark and one token of padding.
        max_sequence_length=counts.pop() + 2,
    )
    theirs = pipe._unpack_latents(packed, 64, 64, 8)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    again = draw(saved(pipe, tmp_path / "chroma-folder"), **values).latents
    assert (again - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_memory_modes_draw_the_same(files: dict[str, Path], draw: Draw) -> None:
    values: dict[str, Any] = {"modules": beside(files), "prompt": PROMPT, "steps": 1}
    wanted = draw(files["chroma"], mode="normal", **values).latents
    for mode in ("medvram", "lowvram"):
        assert torch.equal(draw(files["chroma"], mode=mode, **values).latents, wanted), mode


def test_missing_parts_are_named(files: dict[str, Path], draw: Draw) -> None:
    with pytest.raises(MissingModel, match="no T5 and no VAE: choose t5xxl"):
        draw(files["chroma"], prompt=PROMPT)


def test_a_full_size_file_is_recognised_and_its_recipe_is_complete(tmp_path: Path) -> None:
    path = sparse_checkpoint(tmp_path / "Chroma1-HD.safetensors", dict(real_chroma()))
    header = read_header(path)
    match = detect(header)
    assert (match.family, match.variant, match.problem) == ("chroma", "standard", None)
    assert (match.recommended.steps, match.recommended.cfg_scale) == (26, 4.0)
    recipe = FAMILIES.get("chroma").recipe("denoiser", header)
    assert {source.key for source in recipe.sources.values()} == set(header.tensors)
    assert recipe.buffers["time_text_embed.mod_proj"]().shape == (344, 32)


def test_radiance_is_recognised_and_refused(tmp_path: Path) -> None:
    shapes = transformers.chroma() | {"nerf_blocks.0.norm.scale": (64,)}
    match = detect(read_header(sparse_checkpoint(tmp_path / "r.safetensors", shapes)))
    assert (match.variant, bool(match.problem)) == ("radiance", True)
