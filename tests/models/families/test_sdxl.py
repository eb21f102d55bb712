"""Which files are SDXL's, and what goes with them: clip skip, LoRA, embeddings, the refiner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scripts.tiny_models import adapters, text, unet, vae
from scripts.tiny_models.catalogue import REFINER_TEXT, UNET, VAE, XL_TEXT, XL_TEXT_2
from scripts.tiny_models.catalogue import refiner as tiny_refiner
from scripts.tiny_models.catalogue import sdxl as tiny_sdxl
from scripts.tiny_models.files import random_tensors, with_prefix, write_safetensors
from sdforge.models.checkpoint import read_header
from sdforge.models.detect import detect
from sdforge.models.families import FAMILIES
from sdforge.sampling.sigmas import make_sigmas
from tests.models.families import peers
from tests.models.families.conftest import Draw
from tests.models.families.test_equal_latents import noise
from tests.tiny import sparse_checkpoint

PROMPT = "a photo of a cat"
CLIP_G = text.TextSizes(width=1280, layers=32)
CLIP_L = text.TextSizes(width=768, layers=12)
KL = with_prefix(VAE, vae.vae(replace(vae.SD, width=128, factors=(1, 2, 4, 4))))
SIZES = {
    "sdxl": replace(
        unet.SDXL, width=320, depths=(0, 2, 10), middle_depth=10, context=2048, label=2816
    ),
    "sdxl-refiner": replace(
        unet.REFINER, width=384, depths=(0, 4, 4, 0), middle_depth=4, context=1280, label=2560
    ),
}


def full_size(kind: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published base and refiner."""
    texts = (
        {
            **with_prefix(XL_TEXT, text.clip(CLIP_L)),
            **with_prefix(XL_TEXT_2, text.open_clip(CLIP_G)),
        }
        if kind == "sdxl"
        else with_prefix(REFINER_TEXT, text.open_clip(CLIP_G))
    )
    return {**with_prefix(UNET, unet.unet(SIZES[kind])), **KL, **texts}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("xl")
    made = {"a-base": tiny_sdxl(), "b-refiner": tiny_refiner()}
    return {
        name: write_safetensors(
            folder / f"{name}.safetensors", random_tensors(shapes, number), "F32"
        )
        for number, (name, shapes) in enumerate(made.items(), start=1)
    }


@pytest.mark.parametrize("kind", ["sdxl", "sdxl-refiner"])
def test_a_full_size_file_is_recognised_and_its_recipes_are_complete(
    tmp_path: Path, kind: str
) -> None:
    file = read_header(sparse_checkpoint(tmp_path / "xl.safetensors", full_size(kind)))
    match = detect(file)
    assert (match.family, match.variant, match.prediction) == (kind, "standard", "epsilon")
    assert (match.problem, match.recommended.width) == (None, 1024)
    family = FAMILIES.get(kind)
    recipes = [family.recipe(role, file) for role in family.roles]
    used = {source.key for recipe in recipes for source in recipe.sources.values()}
    assert all(key.endswith("logit_scale") for key in set(file.tensors) - used)


def test_marks_of_other_kinds_of_sdxl_are_seen(tmp_path: Path) -> None:
    def found(name: str = "xl", **extra: tuple[int, ...]) -> Any:
        shapes = {**tiny_sdxl(), **{key.replace("__", "."): row for key, row in extra.items()}}
        return detect(read_header(sparse_checkpoint(tmp_path / f"{name}.safetensors", shapes)))

    assert found(v_pred=(0,)).prediction == "v"
    assert found(v_pred=(0,), ztsnr=(0,)).is_zero_terminal
    assert not found().is_zero_terminal
    assert "EDM" in (found(edm_mean=(1,)).problem or "")
    assert found("sdxl_lightning_4step").variant == "lightning"
    shapes = tiny_sdxl() | {f"{UNET}input_blocks.0.0.weight": (32, 9, 3, 3)}
    match = detect(read_header(sparse_checkpoint(tmp_path / "i.safetensors", shapes)))
    assert match.variant == "inpainting"


def test_clip_skip_counts_only_when_the_setting_says_so(files: dict[str, Path], draw: Draw) -> None:
    file = files["a-base"]

    def latents(**settings: Any) -> torch.Tensor:
        return draw(file, prompt=PROMPT, steps=1, settings=settings).latents

    plain = latents()
    assert torch.equal(latents(CLIP_stop_at_last_layers=1), plain)
    skipping = {"sdxl_clip_l_skip": True}
    assert torch.equal(latents(CLIP_stop_at_last_layers=2, **skipping), plain)
    assert not torch.equal(latents(CLIP_stop_at_last_layers=1, **skipping), plain)


def test_the_refiner_takes_over_from_the_base(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    values = {"prompt": PROMPT, "negative_prompt": "text", "schedule": "Normal", "steps": 4}
    ours = draw(
        files["a-base"],
        files["b-refiner"],
        checkpoint="a-base",
        refiner="b-refiner",
        refiner_switch_at=0.5,
        **values,
    )
    sigmas = make_sigmas("Normal", 4, ours.bundle.denoiser)
    said = {"prompt": PROMPT, "negative_prompt": "text", "guidance_scale": 2.0}
    base = peers.drawn(
        peers.sdxl(files["a-base"], tmp_path / "base"),
        sigmas[:3],
        latents=noise(),
        height=64,
        width=64,
        **said,
    )
    theirs = peers.drawn(
        peers.refiner(files["b-refiner"], tmp_path / "refiner"),
        sigmas[2:],
        image=base,
        denoising_start=1e-4,
        original_size=(64, 64),
        target_size=(64, 64),
        **said,
    )
    assert peers.difference(ours.latents, theirs, sigmas[0]) < 1e-5


def test_a_lora_reaches_both_text_encoders_and_the_network(
    files: dict[str, Path], draw: Draw
) -> None:
    plain = draw(files["a-base"], prompt=PROMPT, steps=1)
    folder = plain.pipeline.parts.paths.loras[0]
    made = adapters.kohya(adapters.SDXL_LAYERS)
    write_safetensors(folder / "xl.safetensors", made, "F32")
    pipeline = plain.pipeline
    pipeline.parts.library.loras.refresh()
    pipeline.draw(prompt=f"{PROMPT} <lora:xl:1>", prompts=(f"{PROMPT} <lora:xl:1>",), steps=1)
    assert not [event for event in pipeline.events if type(event).__name__ == "Notice"]
    bundle = plain.bundle
    weights = load_file(files["a-base"])
    for role, name, key, layer in (
        (
            "text_encoder_2",
            "encoder.layers.2.mlp.fc1.weight",
            f"{XL_TEXT_2}transformer.resblocks.2.mlp.c_fc.weight",
            "lora_te2_text_model_encoder_layers_2_mlp_fc1",
        ),
        (
            "text_encoder",
            "encoder.layers.0.self_attn.q_proj.weight",
            f"{XL_TEXT}text_model.encoder.layers.0.self_attn.q_proj.weight",
            "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
        ),
        (
            "denoiser",
            "mid_block.attentions.0.transformer_blocks.2.ff.net.2.weight",
            f"{UNET}middle_block.1.transformer_blocks.2.ff.net.2.weight",
            "lora_unet_middle_block_1_transformer_blocks_2_ff_net_2",
        ),
    ):
        component = bundle.components[role]
        master = component.master(name)
        up, down = made[f"{layer}.lora_up.weight"], made[f"{layer}.lora_down.weight"]
        wanted = weights[key] + (up @ down) * (made[f"{layer}.alpha"] / len(down))
        assert torch.allclose(component.read(master, master.stored), wanted, atol=1e-5), role


def test_an_embedding_of_two_parts_stands_for_words_in_both_encoders(
    files: dict[str, Path], draw: Draw
) -> None:
    wanted = draw(files["a-base"], prompt="a photo of a cat", steps=1)
    tables = load_file(files["a-base"])
    cat = wanted.bundle.text.tokenizer("cat")
    rows = {
        "clip_l": tables[f"{XL_TEXT}text_model.embeddings.token_embedding.weight"][cat],
        "clip_g": tables[f"{XL_TEXT_2}token_embedding.weight"][cat],
    }
    pipeline = wanted.pipeline
    folder = pipeline.parts.paths.embeddings[0]
    write_safetensors(folder / "mycat.safetensors", rows, "F32")
    pipeline.conditioning.clear()
    settings = {"randn_source": "CPU"}
    values: dict[str, Any] = {"steps": 1, "sampler": "Euler", "cfg_scale": 4.0}
    again = pipeline.draw(settings=settings, prompt="a photo of a mycat", **values)[0]
    plain = pipeline.draw(settings=settings, prompt="a photo of a cat", **values)[0]
    other = pipeline.draw(settings=settings, prompt="a photo of a dog", **values)[0]
    assert (again.pixels == plain.pixels).all()
    assert not (again.pixels == other.pixels).all()


def test_a_file_without_its_second_text_encoder_is_refused_by_name(tmp_path: Path) -> None:
    shapes = {k: v for k, v in tiny_sdxl().items() if not k.startswith(XL_TEXT_2)}
    file = read_header(sparse_checkpoint(tmp_path / "xl.safetensors", shapes))
    assert detect(file).family == "sdxl"
    with pytest.raises(Exception, match="holds no text encoder") as caught:
        FAMILIES.get("sdxl").recipe("text_encoder_2", file)
    assert "xl.safetensors" in str(caught.value)
