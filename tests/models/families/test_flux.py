"""Flux.1 from a transformer, a VAE and two text encoders, each in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.tiny_models import text, transformers, vae
from scripts.tiny_models.files import random_tensors, with_prefix, write_safetensors
from sdforge.core.errors import MissingModel, UnknownName, UnsupportedCheckpoint
from sdforge.models.checkpoint import read_header
from sdforge.models.composition import files_of
from sdforge.models.detect import detect
from sdforge.models.families import FAMILIES
from sdforge.sampling.flow_sigmas import FlowSigmas, flux_shift
from sdforge.sampling.sigmas import make_sigmas
from tests.models.families import peers
from tests.models.families.conftest import Draw
from tests.real_headers import flux as real_flux
from tests.tiny import sparse_checkpoint

PROMPT, AGAINST = "a photo of a cat, watercolour", "blurry"
STEPS = 3


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flux")
    made = {
        "flux": transformers.flux(),
        "schnell": transformers.flux(guided=False),
        "ae": vae.vae(vae.SIXTEEN),
        "clip_l": text.clip(text.CLIP_L),
        "t5xxl": text.t5(),
    }
    tensors = {
        name: random_tensors(shapes, number)
        for number, (name, shapes) in enumerate(made.items(), start=1)
    }
    # One table under two names, as in real files.
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


def noise() -> torch.Tensor:
    return torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "cfg_scale", "distilled"),
    [("flux", 1.0, 2.5), ("flux", 3.0, 3.5), ("schnell", 1.0, 0)],
)
def test_flux_draws_what_diffusers_draws(
    files: dict[str, Path],
    draw: Draw,
    tmp_path: Path,
    name: str,
    cfg_scale: float,
    distilled: float,
) -> None:
    ours = draw(
        files[name],
        modules=beside(files),
        prompt=PROMPT,
        negative_prompt=AGAINST,
        schedule="Simple",
        cfg_scale=cfg_scale,
        distilled_cfg_scale=distilled or 3.5,
    )
    shift = flux_shift(16) if name == "flux" else 1.0
    sigmas = make_sigmas("Simple", STEPS, FlowSigmas(shift))
    pipe = peers.flux({**files, "flux": files[name]}, tmp_path, guided=name == "flux")
    # diffusers appends the last zero itself.
    packed = peers.drawn(
        pipe,
        sigmas[:-1],
        prompt=PROMPT,
        negative_prompt=AGAINST,
        true_cfg_scale=cfg_scale,
        latents=pipe._pack_latents(noise(), 1, 16, 8, 8),
        guidance_scale=distilled,
        height=64,
        width=64,
        max_sequence_length=256,
    )
    theirs = pipe._unpack_latents(packed, 64, 64, 8)
    assert (ours.latents - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_memory_modes_draw_the_same(files: dict[str, Path], draw: Draw) -> None:
    values: dict[str, Any] = {"modules": beside(files), "prompt": PROMPT, "steps": 2}
    wanted = draw(files["flux"], mode="normal", **values).latents
    for mode in ("medvram", "lowvram"):
        assert torch.equal(draw(files["flux"], mode=mode, **values).latents, wanted), mode


def test_one_file_may_hold_everything(files: dict[str, Path], draw: Draw, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    prefixes = {
        "flux": "model.diffusion_model.",
        "ae": "vae.",
        "clip_l": "text_encoders.clip_l.transformer.",
        "t5xxl": "text_encoders.t5xxl.transformer.",
    }
    whole = {
        prefix + key: tensor
        for name, prefix in prefixes.items()
        for key, tensor in load_file(files[name]).items()
    }
    file = write_safetensors(tmp_path / "all-in-one.safetensors", whole, "F32")
    together = draw(file, prompt=PROMPT, steps=1).latents
    apart = draw(files["flux"], modules=beside(files), prompt=PROMPT, steps=1).latents
    assert torch.allclose(together, apart, atol=1e-5)


def test_diffusers_names_are_understood(files: dict[str, Path], draw: Draw, tmp_path: Path) -> None:
    converted = peers.flux_tensors(files["flux"])
    file = write_safetensors(tmp_path / "names.safetensors", converted, "F32")
    theirs = draw(file, modules=beside(files), prompt=PROMPT, steps=1).latents
    ours = draw(files["flux"], modules=beside(files), prompt=PROMPT, steps=1).latents
    assert torch.allclose(theirs, ours, atol=1e-5)


def test_sizes_of_odd_latents_are_drawn(files: dict[str, Path], draw: Draw) -> None:
    drawn = draw(files["flux"], modules=beside(files), steps=1, width=72, height=88)
    assert drawn.latents.shape == (1, 16, 11, 9)


def test_missing_parts_are_named(files: dict[str, Path], draw: Draw) -> None:
    family = FAMILIES.get("flux")
    with pytest.raises(MissingModel) as caught:
        draw(files["flux"], prompt=PROMPT)
    for word in ("no CLIP-L", "no T5", "no VAE", "ae.safetensors", "clip_l.safetensors"):
        assert word in caught.value.message
    with pytest.raises(MissingModel, match=r"has no VAE: choose ae.safetensors"):
        files_of(family, files["flux"], None, (files["clip_l"], files["t5xxl"]))
    with pytest.raises(UnknownName, match="nothing-like-it"):
        draw(files["flux"], settings={"forge_additional_modules": ["/x/nothing-like-it.gguf"]})


def test_what_has_no_place_is_refused(files: dict[str, Path]) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="Stable Diffusion 1.x has no place for"):
        files_of(FAMILIES.get("sd1"), files["flux"], None, (files["t5xxl"],))


@pytest.mark.parametrize("guided", [True, False])
def test_a_full_size_file_is_recognised_and_its_recipe_is_complete(
    tmp_path: Path, guided: bool
) -> None:
    path = sparse_checkpoint(tmp_path / "flux.safetensors", dict(real_flux(guidance=guided)))
    header = read_header(path)
    match = detect(header)
    assert (match.family, match.variant) == ("flux", "dev" if guided else "schnell")
    assert (match.problem, match.recommended.cfg_scale) == (None, 1.0)
    recipe = FAMILIES.get("flux").recipe("denoiser", header)
    assert {source.key for source in recipe.sources.values()} == set(header.tensors)
    assert recipe.skeleton.example.config["axes_dims_rope"] == (16, 56, 56)


def test_fill_is_recognised_and_refused(tmp_path: Path) -> None:
    shapes = with_prefix("", transformers.flux()) | {"img_in.weight": (64, 384)}
    match = detect(read_header(sparse_checkpoint(tmp_path / "f.safetensors", shapes)))
    assert (match.variant, bool(match.problem)) == ("fill", True)
