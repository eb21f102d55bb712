"""SD 3 and 3.5: all in one file or in parts, with T5 and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.tiny_models import catalogue, transformers
from scripts.tiny_models.files import random_tensors, with_prefix, write_safetensors
from scripts.tiny_models.unet import Shapes
from sdforge.core.errors import InvalidRequest, MissingModel
from sdforge.models.checkpoint import read_header
from sdforge.models.detect import detect
from sdforge.models.families import FAMILIES
from sdforge.sampling.flow_sigmas import FlowSigmas
from sdforge.sampling.sigmas import make_sigmas
from tests.models.families import more_peers, peers
from tests.models.families.conftest import Draw
from tests.models.families.folders import saved
from tests.real_headers import sd3 as real_sd3
from tests.tiny import sparse_checkpoint

PROMPT, AGAINST = "a photo of a cat, watercolour", "blurry"
STEPS = 2
PREFIXES = {
    "denoiser": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "clip_l": "text_encoders.clip_l.transformer.",
    "clip_g": "text_encoders.clip_g.transformer.",
    "t5xxl": "text_encoders.t5xxl.transformer.",
}
KINDS: dict[str, dict[str, Any]] = {
    # Nothing in such a file tells the width of heads; that of all published ones is 64.
    "medium": {"attention_head_dim": 64, "caption_projection_dim": 128, "qk_norm": None},
    "3.5-large": {"attention_head_dim": 32, "qk_norm": "rms_norm"},
    "3.5-medium": {
        "attention_head_dim": 32,
        "qk_norm": "rms_norm",
        "dual_attention_layers": (0,),
    },
}


def _parts(kind: str) -> dict[str, Shapes]:
    whole = catalogue.sd3(normed=kind != "medium", second=int(kind == "3.5-medium"))
    if kind == "medium":
        whole |= with_prefix(PREFIXES["denoiser"], transformers.sd3(width=128, head=64))
    return {
        name: {k.removeprefix(lead): v for k, v in whole.items() if k.startswith(lead)}
        for name, lead in PREFIXES.items()
    }


Files = dict[str, Path]


def write(kind: str, folder: Path) -> Files:
    """Write every network in a file of its own, and `whole` with all of them."""
    tensors = {
        name: random_tensors(shapes, number)
        for number, (name, shapes) in enumerate(_parts(kind).items(), start=1)
    }
    # One table under two names, as in real files.
    table = tensors["t5xxl"]["shared.weight"].clone()
    tensors["t5xxl"]["encoder.embed_tokens.weight"] = table
    tensors["whole"] = {
        PREFIXES[name] + key: tensor
        for name, held in tensors.items()
        for key, tensor in held.items()
    }
    # Files of CLIP-L alone have no projection.
    tensors["projected"] = dict(tensors["clip_l"])
    del tensors["clip_l"]["text_projection.weight"]
    return {
        name: write_safetensors(folder / f"{name}.safetensors", held, "F32")
        for name, held in tensors.items()
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Those of the kind that has all that the others have."""
    return write("3.5-medium", tmp_path_factory.mktemp("sd3"))


def theirs(files: Files, folder: Path, kind: str, *, has_t5: bool) -> torch.Tensor:
    sigmas = make_sigmas("Simple", STEPS, FlowSigmas(3.0))
    return peers.drawn(
        more_peers.sd3(files, folder, has_t5=has_t5, **KINDS[kind]),
        sigmas[:-1],
        prompt=PROMPT,
        negative_prompt=AGAINST,
        latents=torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1)),
        guidance_scale=2.0,
        height=64,
        width=64,
    )


@pytest.mark.parametrize(("kind", "has_t5"), [("medium", True), ("3.5-large", False)])
def test_sd3_draws_what_diffusers_draws(
    kind: str, draw: Draw, tmp_path: Path, has_t5: bool
) -> None:
    files = write(kind, tmp_path / "files")
    parts = {
        "VAE": files["vae"],
        "text_encoder:1": files["clip_l"],
        "text_encoder:2": files["clip_g"],
        **({"text_encoder:3": files["t5xxl"]} if has_t5 else {}),
    }
    ours = draw(
        files["denoiser"],
        modules=parts,
        prompt=PROMPT,
        negative_prompt=AGAINST,
        schedule="Simple",
    )
    wanted = theirs(files, tmp_path, kind, has_t5=has_t5)
    assert (ours.latents - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_one_file_may_hold_everything_and_so_may_a_folder(
    files: Files, draw: Draw, tmp_path: Path
) -> None:
    values = {"prompt": PROMPT, "negative_prompt": AGAINST, "schedule": "Simple"}
    ours = draw(files["whole"], **values).latents
    files = {**files, "clip_l": files["projected"]}
    wanted = theirs(files, tmp_path, "3.5-medium", has_t5=True)
    assert (ours - wanted).abs().max() < 1e-5 * wanted.abs().max()
    folder = saved(more_peers.sd3(files, tmp_path, **KINDS["3.5-medium"]), tmp_path / "folder")
    again = draw(folder, **values).latents
    assert (again - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_memory_modes_draw_the_same(files: Files, draw: Draw) -> None:
    values: dict[str, Any] = {"prompt": PROMPT, "steps": 1}
    wanted = draw(files["whole"], mode="normal", **values).latents
    for mode in ("medvram", "lowvram"):
        assert torch.equal(draw(files["whole"], mode=mode, **values).latents, wanted), mode


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = random_tensors(with_prefix(PREFIXES["denoiser"], transformers.sd3(normed=True)))
    return write_safetensors(tmp_path_factory.mktemp("bare") / "sd35.safetensors", tensors, "F32")


def test_missing_parts_are_named_and_t5_is_none_of_them(bare: Path, draw: Draw) -> None:
    with pytest.raises(MissingModel, match="no CLIP-L and no CLIP-G and no VAE: choose") as caught:
        draw(bare, prompt=PROMPT)
    assert "T5" not in caught.value.message


def test_a_picture_beyond_the_table_of_places_is_refused(tmp_path: Path, draw: Draw) -> None:
    whole = catalogue.sd3(normed=True)
    whole |= with_prefix(PREFIXES["denoiser"], transformers.sd3(normed=True, places=4))
    file = write_safetensors(tmp_path / "small.safetensors", random_tensors(whole), "F32")
    assert draw(file, prompt=PROMPT, steps=1).latents.shape == (1, 16, 8, 8)
    with pytest.raises(InvalidRequest, match="at most 64 pixels"):
        draw(file, prompt=PROMPT, steps=1, width=128, height=64)


@pytest.mark.parametrize(
    ("name", "depth", "arguments", "variant", "steps", "cfg_scale"),
    [
        ("sd3_medium", 24, {"norms": False}, "medium", 28, 7.0),
        ("sd3.5_medium", 24, {"second": 13, "places": 384}, "3.5-medium", 40, 4.5),
        ("sd3.5_large", 38, {}, "3.5-large", 28, 3.5),
        ("sd3.5_large_turbo", 38, {}, "3.5-large-turbo", 4, 1.0),
    ],
)
def test_a_full_size_file_is_recognised_and_its_recipe_is_complete(
    tmp_path: Path,
    name: str,
    depth: int,
    arguments: dict[str, Any],
    variant: str,
    steps: int,
    cfg_scale: float,
) -> None:
    path = sparse_checkpoint(tmp_path / f"{name}.safetensors", real_sd3(depth, **arguments))
    header = read_header(path)
    match = detect(header)
    assert (match.family, match.variant, match.problem) == ("sd3", variant, None)
    assert (match.recommended.steps, match.recommended.cfg_scale) == (steps, cfg_scale)
    recipe = FAMILIES.get("sd3").recipe("denoiser", header)
    held = set(header.under(PREFIXES["denoiser"]).values())
    assert not held - {source.key for source in recipe.sources.values()}
    config = recipe.skeleton.example.config
    assert config["num_attention_heads"] == depth
    assert config["pos_embed_max_size"] == arguments.get("places", 192)
