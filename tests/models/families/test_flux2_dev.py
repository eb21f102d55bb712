"""Flux.2 [dev] from a transformer, the VAE of Flux.2 and Mistral, each in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from scripts.tiny_models import text, transformers, vae, words
from scripts.tiny_models.files import random_tensors, write_safetensors
from sdforge.core.errors import MissingModel
from sdforge.models.checkpoint import read_header
from sdforge.models.detect import detect
from sdforge.models.families import FAMILIES
from sdforge.sampling.flow_sigmas import FlowSigmas, flux2_shift
from sdforge.sampling.sigmas import make_sigmas
from tests.gguf_files import write_gguf
from tests.models.families import flux2_peers, peers
from tests.models.families.conftest import Draw
from tests.models.families.folders import saved
from tests.real_headers import FLUX2_DEV
from tests.real_headers import flux2 as real_flux2
from tests.tiny import sparse_checkpoint

PROMPT = "a photo of a cat (watercolour:1.2), ü [IMG]"
STEPS = 2
HEAD = 16
SIGMAS = make_sigmas("Simple", STEPS, FlowSigmas(flux2_shift(16, STEPS)))[:-1]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flux2-dev")
    made = {
        "dev": random_tensors(transformers.flux2(guided=True), 1),
        "vae": random_tensors(vae.flux2_vae(), 2),
        "mistral": random_tensors(text.mistral(), 3) | words.carried_tekken(),
    }
    return {
        name: write_safetensors(folder / f"{name}.safetensors", tensors, "F32")
        for name, tensors in made.items()
    }


@pytest.fixture(scope="module")
def pipe(files: dict[str, Path]) -> Any:
    return flux2_peers.dev(files)


def beside(files: dict[str, Path]) -> dict[str, Path]:
    """The other files, by the folder of each."""
    return {"VAE": files["vae"], "text_encoder": files["mistral"]}


def theirs(pipe: Any, **values: Any) -> torch.Tensor:
    noise = torch.randn(1, 128, 4, 4, generator=torch.Generator().manual_seed(1))
    found = peers.drawn(pipe, SIGMAS, prompt=PROMPT, latents=noise, height=64, width=64, **values)
    return found.transpose(1, 2).unflatten(2, (4, 4))


def test_dev_draws_what_diffusers_draws(
    files: dict[str, Path], draw: Draw, pipe: Any, tmp_path: Path
) -> None:
    """Told 4.0, as its kind recommends; and the same from a folder."""
    values: dict[str, Any] = {"prompt": PROMPT, "schedule": "Simple", "cfg_scale": 1.0}
    wanted = theirs(pipe, guidance_scale=4.0)
    folder = saved(pipe, tmp_path / "dev-folder")
    for ours in (draw(files["dev"], modules=beside(files), **values), draw(folder, **values)):
        assert (ours.latents - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_dev_changes_a_picture_as_diffusers_does(
    files: dict[str, Path], draw: Draw, pipe: Any
) -> None:
    numbers = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(5))
    picture = Image.fromarray(numbers.to(torch.uint8).numpy())
    values: dict[str, Any] = {"prompt": PROMPT, "schedule": "Simple", "cfg_scale": 1.0}
    ours = draw(
        files["dev"],
        modules=beside(files),
        picture=picture,
        distilled_cfg_scale=2.5,
        **values,
    )
    wanted = theirs(pipe, guidance_scale=2.5, image=picture)
    assert (ours.latents - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_memory_modes_draw_the_same(files: dict[str, Path], draw: Draw) -> None:
    values: dict[str, Any] = {"modules": beside(files), "prompt": PROMPT, "steps": 1}
    wanted = draw(files["dev"], mode="normal", **values).latents
    for mode in ("medvram", "lowvram"):
        assert torch.equal(draw(files["dev"], mode=mode, **values).latents, wanted), mode


def test_missing_parts_are_named(files: dict[str, Path], draw: Draw, tmp_path: Path) -> None:
    with pytest.raises(MissingModel, match="no Mistral text encoder and no VAE: choose mistral_3"):
        draw(files["dev"], prompt=PROMPT)
    bare = {key: value for key, value in load_file(files["mistral"]).items() if "tekken" not in key}
    encoder = write_safetensors(tmp_path / "bare.safetensors", bare, "F32")
    with pytest.raises(MissingModel, match="without the tokenizer of Mistral"):
        draw(files["dev"], modules=beside(files) | {"text_encoder": encoder}, prompt=PROMPT)


def test_a_full_size_file_is_recognised_and_its_recipe_is_complete(tmp_path: Path) -> None:
    shapes = dict(real_flux2(**FLUX2_DEV, guidance=True))
    header = read_header(sparse_checkpoint(tmp_path / "flux2_dev.safetensors", shapes))
    match = detect(header)
    assert (match.family, match.variant, match.problem) == ("flux2", "dev", None)
    assert match.recommended.distilled_cfg_scale == 4.0
    recipe = FAMILIES.get("flux2").recipe("denoiser", header)
    assert {source.key for source in recipe.sources.values()} == set(header.tensors)


def test_a_gguf_reader_draws_what_its_numbers_draw(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    """llama.cpp keeps the rows of Mistral's queries and keys by pairs of numbers that turn."""
    tensors = {k: v for k, v in load_file(files["mistral"]).items() if "tekken" not in k}
    source = write_safetensors(tmp_path / "source.safetensors", _as_llama_cpp(tensors), "F32")
    packed = tmp_path / "mistral-small.gguf"
    meant = write_gguf(source, packed, "Q8_0", arch="llama")
    (tmp_path / "mistral-small.tekken.json").write_bytes(words.tekken())
    again = {name: torch.from_numpy(meant[_llama_name(name)].copy()) for name in tensors}
    for name, tensor in again.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            again[name] = _halves(tensor)
    plain = write_safetensors(tmp_path / "plain.safetensors", again | words.carried_tekken(), "F32")
    values: dict[str, Any] = {"prompt": PROMPT, "steps": 1}
    wanted = draw(files["dev"], modules=beside(files) | {"text_encoder": plain}, **values).latents
    modules = {"VAE": files["vae"], "text_encoder:1": packed}
    modules["text_encoder:2"] = tmp_path / "mistral-small.tekken.json"
    drawn = draw(files["dev"], modules=modules, **values).latents
    assert torch.allclose(drawn, wanted, atol=1e-5)


_LLAMA_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def _llama_name(name: str) -> str:
    if not name.startswith("model.layers."):
        table = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
        return f"{table[name.removesuffix('.weight')]}.weight"
    number, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{_LLAMA_PARTS[rest.removesuffix('.weight')]}.weight"


def _as_llama_cpp(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            by_half = tensor.unflatten(0, (-1, 2, HEAD // 2))
            tensor = by_half.transpose(1, 2).flatten(0, 2)
        found[_llama_name(name)] = tensor
    return found


def _halves(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.unflatten(0, (-1, HEAD // 2, 2)).transpose(1, 2).flatten(0, 2)
