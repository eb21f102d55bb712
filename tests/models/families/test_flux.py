"""Flux.1 from a transformer, a VAE and two text encoders, each in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts.tiny_models import adapters, text, transformers, vae
from scripts.tiny_models.files import (
    random_tensors,
    with_prefix,
    write_safetensors,
    write_scaled_fp8,
)
from sdforge.core.errors import MissingModel, UnknownName, UnsupportedCheckpoint
from sdforge.models.checkpoint import read_header
from sdforge.models.composition import files_of
from sdforge.models.detect import detect
from sdforge.models.families import FAMILIES
from sdforge.sampling.flow_sigmas import FlowSigmas, flux_shift
from sdforge.sampling.sigmas import make_sigmas
from tests.four_bit_files import four_bit
from tests.gguf_files import write_gguf
from tests.models.families import peers
from tests.models.families.conftest import Draw
from tests.models.families.folders import saved
from tests.real_headers import flux as real_flux
from tests.tiny import sparse_checkpoint

PROMPT, AGAINST = "a photo of a cat, watercolour", "blurry"
STEPS = 2


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
    [("flux", 1.0, 2.5), ("flux", 2.0, 3.5), ("schnell", 1.0, 0)],
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
    values: dict[str, Any] = {"modules": beside(files), "prompt": PROMPT, "steps": 1}
    wanted = draw(files["flux"], mode="normal", **values).latents
    for mode in ("medvram", "lowvram"):
        assert torch.equal(draw(files["flux"], mode=mode, **values).latents, wanted), mode


def test_one_file_may_hold_everything_and_so_may_a_folder(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
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
    folder = saved(peers.flux(files, tmp_path, guided=True), tmp_path / "flux-folder")
    apart = draw(files["flux"], modules=beside(files), prompt=PROMPT, steps=1).latents
    for one in (file, folder):
        together = draw(one, prompt=PROMPT, steps=1).latents
        assert torch.allclose(together, apart, atol=1e-5), one.name


def test_the_request_of_forge_with_a_packed_transformer_draws(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    packed = tmp_path / "flux1-dev-Q4_0.gguf"
    meant = write_gguf(files["flux"], packed, "Q4_0", arch="flux")
    plain = write_safetensors(
        tmp_path / "plain.safetensors",
        {name: torch.from_numpy(numbers.copy()) for name, numbers in meant.items()},
        "F32",
    )
    small = tmp_path / "t5xxl_fp8_e4m3fn.safetensors"
    write_safetensors(small, load_file(files["t5xxl"]), "F8_E4M3")
    others = {**beside(files), "text_encoder:2": small}
    values: dict[str, Any] = {"prompt": PROMPT, "steps": 2, "cfg_scale": 1.0}
    asked = {
        "forge_unet_storage_dtype": "Automatic (fp16 LoRA)",
        "forge_additional_modules": [
            "models/VAE/ae.safetensors",
            "models/text_encoder/clip_l.safetensors",
            "models/text_encoder/t5xxl_fp8_e4m3fn.safetensors",
        ],
    }
    drawn = draw(packed, modules=others, settings=asked, **values)
    transformer = drawn.bundle.components["denoiser"]
    assert any(master.stored.dtype == torch.uint8 for master in transformer.masters)
    wanted = draw(plain, modules=others, settings=asked, **values).latents
    assert torch.equal(drawn.latents, wanted)
    streamed = draw(packed, modules=others, settings=asked, mode="lowvram", **values)
    assert torch.equal(streamed.latents, wanted)


def test_a_packed_t5_under_the_names_of_llama_cpp_is_the_same(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    names = {theirs: name for name in load_file(files["t5xxl"]) if (theirs := ggml_t5_name(name))}
    source = write_safetensors(
        tmp_path / "named.safetensors",
        {theirs: load_file(files["t5xxl"])[name] for theirs, name in names.items()},
        "F32",
    )
    packed = tmp_path / "t5-v1_1-xxl-encoder-Q8_0.gguf"
    meant = write_gguf(source, packed, "Q8_0", arch="t5encoder")
    plain = write_safetensors(
        tmp_path / "t5xxl.safetensors",
        {names[theirs]: torch.from_numpy(n.copy()) for theirs, n in meant.items()},
        "F32",
    )
    values: dict[str, Any] = {"prompt": PROMPT, "steps": 1, "cfg_scale": 1.0}
    found, wanted = (
        draw(files["flux"], modules={**beside(files), "text_encoder:2": file}, **values).latents
        for file in (packed, plain)
    )
    assert torch.equal(found, wanted)


def ggml_t5_name(name: str) -> str:
    """Return llama.cpp's name of a tensor of T5's encoder, '' for the table's second name."""
    if name == "encoder.embed_tokens.weight":
        return ""
    table = {"shared": "token_embd", "encoder.final_layer_norm": "enc.output_norm"}
    lead = name.removesuffix(".weight")
    if lead in table:
        return f"{table[lead]}.weight"
    parts = {
        "0.SelfAttention.q": "attn_q", "0.SelfAttention.k": "attn_k", "0.SelfAttention.v": "attn_v",
        "0.SelfAttention.o": "attn_o", "0.SelfAttention.relative_attention_bias": "attn_rel_b",
        "0.layer_norm": "attn_norm", "1.DenseReluDense.wi_0": "ffn_gate",
        "1.DenseReluDense.wi_1": "ffn_up", "1.DenseReluDense.wo": "ffn_down",
        "1.layer_norm": "ffn_norm",
    }  # fmt: skip
    number, _, rest = lead.removeprefix("encoder.block.").partition(".layer.")
    return f"enc.blk.{number}.{parts[rest]}.weight"


def test_scaled_fp8_means_its_numbers_times_their_scale(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    both: dict[str, list[Path]] = {"scaled": [], "plain": []}
    for name in ("flux", "t5xxl"):
        scaled = tmp_path / "scaled" / f"{name}.safetensors"
        write_scaled_fp8(scaled, load_file(files[name]))
        packed = load_file(scaled)
        meant = {
            key: numbers.float() * packed.get(f"{key.removesuffix('weight')}scale_weight", 1)
            for key, numbers in packed.items()
            if not key.endswith(("scale_weight", "scaled_fp8"))
        }
        plain = write_safetensors(tmp_path / "plain" / f"{name}.safetensors", meant, "F32")
        both["scaled"].append(scaled)
        both["plain"].append(plain)
    values: dict[str, Any] = {"prompt": PROMPT, "steps": 1, "cfg_scale": 1.0}
    found = {
        kind: draw(flux, modules={**beside(files), "text_encoder:2": t5}, **values)
        for kind, (flux, t5) in both.items()
    }
    assert torch.equal(found["scaled"].latents, found["plain"].latents)
    transformer = found["scaled"].bundle.components["denoiser"]
    kinds = {master.stored.dtype for master in transformer.masters}
    assert torch.float8_e4m3fn in kinds


def test_a_transformer_in_four_bits_is_drawn_as_the_numbers_it_means(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    packed: dict[str, torch.Tensor] = {}
    meant: dict[str, torch.Tensor] = {}
    for name, one in load_file(files["flux"]).items():
        if "blocks." in name and one.ndim == 2:
            written = four_bit(name, one, nested=".1." in name)
            packed |= written.tensors
            meant[name] = written.meant
        else:
            packed[name] = meant[name] = one
    values: dict[str, Any] = {"prompt": PROMPT, "steps": 1, "cfg_scale": 1.0}
    found = []
    for label, tensors in (("nf4", packed), ("plain", meant)):
        file = tmp_path / f"{label}.safetensors"
        save_file(tensors, file)
        found.append(draw(file, modules=beside(files), **values).latents)
    assert torch.equal(*found)


def test_bitsandbytes_weights_and_scales_by_row_are_refused_by_name(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    weight = "double_blocks.0.img_attn.qkv.weight"
    for beside_it, words in (
        (f"{weight}.absmax", "as bitsandbytes NF4"),
        (f"{weight}_scale", "a scale for each row"),
    ):
        tensors = load_file(files["flux"]) | {beside_it: torch.ones(4)}
        file = write_safetensors(tmp_path / "packed.safetensors", tensors, "F32")
        with pytest.raises(UnsupportedCheckpoint, match=words):
            draw(file, modules=beside(files), prompt=PROMPT)


def test_diffusers_names_are_understood(files: dict[str, Path], draw: Draw, tmp_path: Path) -> None:
    converted = peers.flux_tensors(files["flux"])
    file = write_safetensors(tmp_path / "names.safetensors", converted, "F32")
    theirs = draw(file, modules=beside(files), prompt=PROMPT, steps=1).latents
    ours = draw(files["flux"], modules=beside(files), prompt=PROMPT, steps=1).latents
    assert torch.allclose(theirs, ours, atol=1e-5)


def test_sizes_of_odd_latents_are_drawn(files: dict[str, Path], draw: Draw) -> None:
    drawn = draw(files["flux"], modules=beside(files), steps=1, width=72, height=88)
    assert drawn.latents.shape == (1, 16, 11, 9)


def test_a_second_pass_may_have_another_text_encoder(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    other = write_safetensors(
        tmp_path / "other-t5.safetensors", random_tensors(text.t5(), 9), "F32"
    )
    modules = beside(files)
    names = [file.name for file in modules.values()]
    values: dict[str, Any] = {
        "modules": {**modules, "text_encoder:3": other}, "prompt": PROMPT, "hires": True,
        "hires_scale": 1.5, "denoising_strength": 0.7, "cfg_scale": 1.0,
        "settings": {"forge_additional_modules": names},
    }  # fmt: skip
    same, own, changed = (
        draw(files["flux"], hires_modules=hires_modules, **values).latents
        for hires_modules in (None, tuple(names), (*names[:-1], other.name))
    )
    assert torch.equal(same, own)
    assert not torch.allclose(same, changed, atol=1e-4)


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


def _lora_in(spelling: str) -> dict[str, torch.Tensor]:
    """A LoRA in kohya's names, in diffusers' or in those of the model's authors (of alpha 1)."""
    if spelling == "peft":
        return adapters.peft(adapters.FLUX_PEFT_LAYERS)
    made = adapters.kohya(adapters.FLUX_LAYERS)
    if spelling == "kohya":
        return made
    renamed = {}
    for layer in adapters.FLUX_LAYERS:
        for ours, theirs in (("lora_up", "lora_B"), ("lora_down", "lora_A")):
            renamed[f"{_BFL[layer]}.{theirs}.weight"] = made[f"{layer}.{ours}.weight"]
    return renamed


_BFL = {
    "lora_unet_double_blocks_0_img_attn_qkv": "double_blocks.0.img_attn.qkv",
    "lora_unet_double_blocks_0_txt_mlp_0": "double_blocks.0.txt_mlp.0",
    "lora_unet_single_blocks_0_linear1": "single_blocks.0.linear1",
}
_ROWS = {
    "transformer_blocks.0.attn.to_q": ("double_blocks.0.img_attn.qkv", slice(0, 64)),
    "transformer_blocks.0.attn.to_k": ("double_blocks.0.img_attn.qkv", slice(64, 128)),
    "transformer_blocks.0.ff_context.net.0.proj": ("double_blocks.0.txt_mlp.0", slice(None)),
    "single_transformer_blocks.0.proj_mlp": ("single_blocks.0.linear1", slice(192, 448)),
}


@pytest.mark.parametrize(
    ("spelling", "packed"),
    [("peft", ""), ("kohya", "Q4_0"), ("authors", "Q8_0")],
)
def test_a_lora_in_every_spelling_reaches_its_rows(
    files: dict[str, Path], draw: Draw, tmp_path: Path, spelling: str, packed: str
) -> None:
    file, weights = files["flux"], load_file(files["flux"])
    if packed:
        file = tmp_path / "packed.gguf"
        meant = write_gguf(files["flux"], file, packed, arch="flux")
        weights = {name: torch.from_numpy(numbers.copy()) for name, numbers in meant.items()}
    plain = draw(file, modules=beside(files), prompt=PROMPT, steps=1)
    made = _lora_in(spelling)
    pipeline = plain.pipeline
    folder = pipeline.parts.paths.loras[0]
    write_safetensors(folder / "mine.safetensors", made, "F32")
    pipeline.parts.library.loras.refresh()
    modules = [file.name for file in beside(files).values()]
    said = f"{PROMPT} <lora:mine:1>"
    pipeline.draw(
        settings={"forge_additional_modules": modules}, prompt=said, prompts=(said,), steps=1
    )
    assert not [event for event in pipeline.events if type(event).__name__ == "Notice"]
    component = plain.bundle.components["denoiser"]
    changed = 0
    for layer, (name, rows) in _ROWS.items():
        wanted = weights[f"{name}.weight"][rows]
        spelled = "lora_unet_" + name.replace(".", "_")
        if f"{spelled}.alpha" in made:
            up, down = made[f"{spelled}.lora_up.weight"], made[f"{spelled}.lora_down.weight"]
            delta = (up[rows] @ down) * (made[f"{spelled}.alpha"] / len(down))
        elif f"{name}.lora_A.weight" in made:
            delta = made[f"{name}.lora_B.weight"][rows] @ made[f"{name}.lora_A.weight"]
        elif f"transformer.{layer}.lora_A.weight" in made:
            named = f"transformer.{layer}"
            delta = made[f"{named}.lora_B.weight"] @ made[f"{named}.lora_A.weight"]
        else:
            continue
        changed += 1
        master = component.master(f"{layer}.weight")
        assert (master.decode is not None) == bool(packed), layer
        assert torch.allclose(component.read(master, master.stored), wanted + delta, atol=1e-5)
    assert changed == (2 if spelling == "peft" else 4)


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


def test_control_is_recognised_and_refused(tmp_path: Path) -> None:
    shapes = with_prefix("", transformers.flux(beside=64))
    match = detect(read_header(sparse_checkpoint(tmp_path / "f.safetensors", shapes)))
    assert (match.variant, bool(match.problem)) == ("control", True)
