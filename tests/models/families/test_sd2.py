"""Which files are SD 2.x, and what their networks predict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scripts.tiny_models import text, unet, vae
from scripts.tiny_models.catalogue import SD2_TEXT, UNET, VAE
from scripts.tiny_models.catalogue import sd2 as tiny_sd2
from scripts.tiny_models.files import random_tensors, with_prefix, write_safetensors
from sdforge.models.checkpoint import CheckpointHeader, read_header
from sdforge.models.detect import detect
from sdforge.models.families import FAMILIES
from tests.tiny import sparse_checkpoint, tiny_server_parts


def header(tmp_path: Path, name: str = "m", config: str = "", **metadata: str) -> CheckpointHeader:
    said = {key.replace("__", "."): value for key, value in metadata.items()}
    path = sparse_checkpoint(tmp_path / f"{name}.safetensors", tiny_sd2(), metadata=said)
    if config:
        path.with_suffix(".yaml").write_text(config)
    return read_header(path)


def full_size() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published SD 2.1."""
    sizes = replace(unet.SD2, width=320, factors=(1, 2, 4, 4), context=1024)
    return {
        **with_prefix(UNET, unet.unet(sizes)),
        **with_prefix(VAE, vae.vae(replace(vae.SD, width=128, factors=(1, 2, 4, 4)))),
        **with_prefix(SD2_TEXT, text.open_clip(text.TextSizes(width=1024, layers=24))),
    }


def test_a_full_size_file_is_recognised_and_its_recipes_are_complete(tmp_path: Path) -> None:
    file = read_header(sparse_checkpoint(tmp_path / "v2-1_768-ema.safetensors", full_size()))
    match = detect(file)
    assert (match.family, match.variant, match.prediction) == ("sd2", "standard", "v")
    assert "width 1024" in match.reason
    assert match.recommended.width == 768
    family = FAMILIES.get("sd2")
    sources = {role: family.recipe(role, file).sources.values() for role in family.roles}
    used = {source.key for found in sources.values() for source in found}
    unused = {key for key in file.tensors if key not in used}
    assert unused == {f"{SD2_TEXT}logit_scale"}
    config = family.recipe("denoiser", file).skeleton.example.config
    assert list(config["attention_head_dim"]) == [5, 10, 20, 20]


@pytest.mark.parametrize(
    ("name", "config", "metadata", "prediction"),
    [
        ("m", "", {}, None),
        ("m", "", {"modelspec__prediction_type": "v"}, "v"),
        ("m", "", {"modelspec__architecture": "stable-diffusion-v2-768-v"}, "v"),
        ("m", "", {"modelspec__architecture": "stable-diffusion-v2-512"}, "epsilon"),
        ("m", 'unet_config:\n  parameterization: "v"\n', {}, "v"),
        ("m", "unet_config:\n  target: x\n", {}, "epsilon"),
        ("m", "something: else\n", {}, None),
        ("v2-1_768-nonema", "", {}, "v"),
        ("512-base-ema", "", {}, "epsilon"),
        ("model-v-pred", "", {}, "v"),
    ],
)
def test_what_it_predicts_is_read_where_it_is_said(
    tmp_path: Path, name: str, config: str, metadata: dict[str, str], prediction: str | None
) -> None:
    assert detect(header(tmp_path, name, config, **metadata)).prediction == prediction


@pytest.mark.parametrize(("answer", "prediction"), [(-3.0, "v"), (0.5, "epsilon")])
def test_where_nothing_says_it_the_network_is_asked(
    tmp_path: Path, answer: float, prediction: str
) -> None:
    tensors = random_tensors(tiny_sd2(), 1)
    tensors[f"{UNET}out.2.weight"] *= 0.1
    tensors[f"{UNET}out.2.bias"] = torch.full((4,), answer)
    file = write_safetensors(tmp_path / "quiet.safetensors", tensors, "F16")
    parts = tiny_server_parts(tmp_path / "data", file)
    assert parts.provider.get("").denoiser.prediction == prediction
    parts.provider.unload()


def test_a_text_encoder_of_another_width_is_a_problem(tmp_path: Path) -> None:
    shapes = tiny_sd2()
    shapes[f"{SD2_TEXT}token_embedding.weight"] = (9, 40)
    match = detect(read_header(sparse_checkpoint(tmp_path / "m.safetensors", shapes)))
    assert match.problem is not None
    assert "width 48" in match.problem
