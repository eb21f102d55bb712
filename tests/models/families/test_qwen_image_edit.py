"""Qwen-Image-Edit, whose prompts are read together with the picture that they are about."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from scripts.tiny_models import text, transformers, vae
from scripts.tiny_models.files import random_tensors, write_safetensors
from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.models import qwen_edit_text
from sdforge.models.checkpoint import read_header
from sdforge.models.detect import detect
from sdforge.models.families import FAMILIES
from sdforge.models.families.qwen_image_edit import tokens_of_pictures
from sdforge.models.opening import open_model
from sdforge.models.qwen_edit_text import ONE_AREA, SEVERAL_AREA, among_pictures, area_size
from sdforge.models.qwen_vision import STRIDE, seen_size
from sdforge.models.sizes import model_sizes
from sdforge.pipeline import references
from sdforge.sampling.flow_sigmas import FlowSigmas
from sdforge.sampling.sigmas import make_sigmas
from tests.models.families import peers, qwen_edit_peers
from tests.models.families.conftest import Draw
from tests.models.families.folders import saved
from tests.tiny import sparse_checkpoint

PROMPT = "make the cat (blue:1.2)"
STEPS = 2
WIDTH, HEIGHT = 96, 64
NAMES = {"": "Qwen-Image-Edit", "Plus": "qwen_image_edit_2509_bf16", "2511": "qwen-edit-2511"}


@pytest.fixture(autouse=True)
def small_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pictures be seen small: the usual sizes would take half a minute here."""
    monkeypatch.setattr(qwen_edit_text, "ONE_AREA", 160 * 160)
    monkeypatch.setattr(qwen_edit_text, "SEVERAL_AREA", 96 * 96)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("qwen-image-edit")
    made = {
        "edit": random_tensors(transformers.qwen_image(context=32), 1),
        "vae": random_tensors(vae.video_vae(), 2),
        "reader": random_tensors({**text.qwen25(), **text.qwen_vision()}, 3),
    }
    found = {
        name: write_safetensors(folder / f"{name}.safetensors", tensors, "F32")
        for name, tensors in made.items()
    }
    for kind, name in NAMES.items():
        found[f"edit{kind}"] = folder / f"{name}.safetensors"
        found["edit" + kind].write_bytes((folder / "edit.safetensors").read_bytes())
    return found


@pytest.fixture(scope="module")
def read(files: dict[str, Path]) -> Any:
    return qwen_edit_peers.reader(files["reader"])


def beside(files: dict[str, Path]) -> dict[str, Path]:
    """The other files, by the folder of each."""
    return {"VAE": files["vae"], "text_encoder": files["reader"]}


def scene() -> Image.Image:
    """A picture that differs everywhere."""
    numbers = torch.randint(0, 256, (HEIGHT, WIDTH, 3), generator=torch.Generator().manual_seed(5))
    return Image.fromarray(numbers.to(torch.uint8).numpy())


def asked(files: dict[str, Path], **values: Any) -> dict[str, Any]:
    return {
        "modules": beside(files),
        "prompt": PROMPT,
        "schedule": "Simple",
        "cfg_scale": 1.0,
        "width": WIDTH,
        "picture": scene(),
    } | values


def theirs(pipe: Any, **values: Any) -> torch.Tensor:
    noise = torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(1))
    packed = peers.drawn(
        pipe,
        make_sigmas("Simple", STEPS, FlowSigmas(3.1))[:-1],
        latents=pipe._pack_latents(noise.unsqueeze(2), 1, 16, 8, 12),
        true_cfg_scale=1.0,
        height=HEIGHT,
        width=WIDTH,
        **values,
    )
    found: torch.Tensor = pipe._unpack_latents(packed, HEIGHT, WIDTH, 8).squeeze(2)
    return found


def test_estimates_count_the_tokens_that_pictures_take() -> None:
    for refers, area in ((1, ONE_AREA), (3, SEVERAL_AREA)):
        for width, height in ((1024, 1024), (1920, 1080), (600, 800)):
            seen = math.prod(seen_size(*area_size(width, height, area))) / STRIDE**2
            assert tokens_of_pictures(refers, 2) == pytest.approx(2 * seen, rel=0.1)


def test_it_changes_a_picture_as_diffusers_does(
    files: dict[str, Path],
    read: Any,
    draw: Draw,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as module

    size = module.calculate_dimensions(ONE_AREA, WIDTH / HEIGHT)[:2]
    assert area_size(WIDTH, HEIGHT, ONE_AREA) == size == (1248, 832)
    drawn = draw(files["edit"], **asked(files)).latents
    pipe = qwen_edit_peers.qwen_edit(files, tmp_path, read)
    seen = scene().resize((192, 128), Image.Resampling.LANCZOS)
    with torch.no_grad():
        states, mask = pipe.encode_prompt(PROMPT, seen, device="cpu")
    monkeypatch.setattr(module, "calculate_dimensions", lambda *_: (WIDTH, HEIGHT, None))
    wanted = theirs(pipe, image=scene(), prompt_embeds=states, prompt_embeds_mask=mask)
    assert (drawn - wanted).abs().max() < 1e-5 * wanted.abs().max()
    pipe.register_modules(processor=None)
    folder = draw(saved(pipe, tmp_path / "folder"), **asked(files, modules={})).latents
    assert (folder - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("kind", ["Plus", "2511"])
def test_later_versions_change_a_picture_as_diffusers_does(
    files: dict[str, Path],
    read: Any,
    draw: Draw,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

    assert module.CONDITION_IMAGE_SIZE == SEVERAL_AREA
    monkeypatch.setattr(module, "CONDITION_IMAGE_SIZE", 96 * 96)
    monkeypatch.setattr(module, "VAE_IMAGE_SIZE", WIDTH * HEIGHT)
    drawn = draw(files[f"edit{kind}"], **asked(files)).latents
    config = {"zero_cond_t": True} if kind == "2511" else {}
    pipe = qwen_edit_peers.qwen_edit(files, tmp_path, read, "Plus", **config)
    wanted = theirs(pipe, image=[scene()], prompt=PROMPT)
    assert (drawn - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_several_pictures_are_read_about_and_referred_to_as_diffusers_does(
    files: dict[str, Path],
    read: Any,
    draw: Draw,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

    monkeypatch.setattr(module, "CONDITION_IMAGE_SIZE", 96 * 96)
    monkeypatch.setattr(module, "VAE_IMAGE_SIZE", WIDTH * HEIGHT)
    monkeypatch.setattr(references, "AREA", WIDTH * HEIGHT)
    second = scene().rotate(90, expand=True).resize((80, 120))
    drawn = draw(files["editPlus"], **asked(files, references=[second])).latents
    pipe = qwen_edit_peers.qwen_edit(files, tmp_path, read, "Plus")
    wanted = theirs(pipe, image=[scene(), second], prompt=PROMPT)
    assert (drawn - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_memory_modes_draw_the_same(files: dict[str, Path], draw: Draw) -> None:
    values = asked(files, steps=1, cfg_scale=2.0, width=64)
    wanted = draw(files["editPlus"], mode="normal", **values).latents
    for mode in ("medvram", "lowvram"):
        assert torch.equal(draw(files["editPlus"], mode=mode, **values).latents, wanted), mode


def test_a_vision_part_may_lie_apart_as_llama_cpp_saves_it(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    values = asked(files, steps=1)
    wanted = draw(files["editPlus"], **values).latents
    tensors = load_file(files["reader"])
    reader = {key: one for key, one in tensors.items() if not key.startswith("visual.")}
    eyes = mmproj({key: one for key, one in tensors.items() if key.startswith("visual.")})
    apart = {
        "VAE": files["vae"],
        "text_encoder:1": write_safetensors(tmp_path / "words.safetensors", reader, "F32"),
        "text_encoder:2": write_plain_gguf(tmp_path / "mmproj-model-f32.gguf", eyes),
    }
    found = draw(files["editPlus"], **values | {"modules": apart}).latents
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    del apart["text_encoder:2"]
    with pytest.raises(MissingModel, match="no vision part of Qwen2.5-VL: choose .*mmproj"):
        draw(files["editPlus"], **values | {"modules": apart})


def test_a_vision_part_of_another_width_is_refused(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    tensors = random_tensors({**text.qwen25(), **text.qwen_vision(out=48)})
    other = write_safetensors(tmp_path / "qwen-3b.safetensors", tensors, "F16")
    modules = {**beside(files), "text_encoder": other}
    with pytest.raises(UnsupportedCheckpoint, match="of width 48, qwen-3b wants 32: choose"):
        draw(files["edit"], **asked(files, modules=modules))


def test_prompts_are_read_with_their_own_picture_and_without_its_mark(
    files: dict[str, Path], draw: Draw
) -> None:
    """The same words with one picture, with another, with the first again, and with none."""
    drawn = draw(files["editPlus"], **asked(files, steps=1))
    pipeline = drawn.pipeline
    names = [file.name for file in beside(files).values()]

    def again(prompt: str = PROMPT, picture: Image.Image | None = None) -> torch.Tensor:
        values: dict[str, Any] = {"prompts": (prompt,), "prompt": prompt, "cfg_scale": 1.0}
        if picture is not None:
            values |= {"init_images": (pipeline.put(picture),), "denoising_strength": 1.0}
        settings = {"forge_additional_modules": names, "randn_source": "CPU"}
        (found,) = pipeline.draw(settings=settings, steps=1, width=WIDTH, **values)
        return torch.from_numpy(found.pixels.astype(float))

    first, turned = again(picture=scene()), again(picture=scene().rotate(180))
    assert (first - turned).abs().max() > 1
    assert torch.equal(again(picture=scene()), first)
    assert torch.equal(again(f"<|image_pad|>{PROMPT}<|image_pad|>", scene()), first)
    assert not torch.equal(again(), first)


@pytest.mark.parametrize(
    ("name", "metadata", "variant", "is_clean"),
    [
        ("Qwen-Image-Edit", {}, "edit", False),
        ("qwen_image_edit_fp8_e4m3fn", {}, "edit", False),
        ("mine", {"modelspec.title": "Qwen Image Edit"}, "edit", False),
        ("model", {"diffusers.pipeline": "QwenImageEditPipeline"}, "edit", False),
        ("model", {"diffusers.pipeline": "QwenImageEditPlusPipeline"}, "edit-plus", False),
        ("Qwen-Image-Edit-2509-Lightning-4steps", {}, "edit-plus", False),
        ("Qwen-Rapid-AIO-v9", {}, "edit-plus", False),
        ("qwen_image_edit_2511_bf16", {}, "edit-plus", True),
    ],
)
def test_names_tell_the_versions(
    tmp_path: Path, name: str, metadata: dict[str, str], variant: str, is_clean: bool
) -> None:
    path = sparse_checkpoint(
        tmp_path / f"{name}.safetensors", transformers.qwen_image(), metadata=metadata
    )
    header = read_header(path)
    match = detect(header)
    assert (match.family, match.variant, match.problem) == ("qwen-image-edit", variant, None)
    assert match.refers
    assert ("free of noise" in match.reason) == is_clean
    recipe = FAMILIES.get(match.family).recipe("denoiser", open_model(path))
    assert recipe.skeleton.example.zero_cond_t == is_clean


def test_the_mark_of_2511_tells_it_without_a_name(tmp_path: Path) -> None:
    shapes = {**transformers.qwen_image(), "__index_timestep_zero__": (1,)}
    match = detect(read_header(sparse_checkpoint(tmp_path / "mine.safetensors", shapes)))
    assert (match.family, match.variant) == ("qwen-image-edit", "edit-plus")


def test_the_published_vision_part_is_known_and_counts(tmp_path: Path) -> None:
    eyes = text.qwen_vision(width=1280, layers=32, hidden=3420, out=3584)
    path = sparse_checkpoint(tmp_path / "qwen_2.5_vl_7b.safetensors", {**text.qwen25(), **eyes})
    reader, family = open_model(path), FAMILIES.get("qwen-image-edit")
    recipe = family.recipe("vision", reader)
    assert {source.key for source in recipe.sources.values()} == set(eyes)
    assert (len(recipe.skeleton.example.blocks), recipe.skeleton.example.head) == (32, 80)
    transformer = open_model(
        sparse_checkpoint(tmp_path / "edit.safetensors", transformers.qwen_image())
    )
    precision = {"denoiser": "bfloat16", "text_encoder": "float16", "vae": "float32"}
    files = {"text_encoder": reader, "vision": reader}

    def counted(family: str) -> int:
        sizes = model_sizes(family, transformer, precision, beside=files)
        return sum(network.total_bytes for network in sizes.of("text_encoder"))

    seen = sum(2 * math.prod(shape) for shape in eyes.values())
    assert counted("qwen-image-edit") - counted("qwen-image") == seen


def test_places_are_those_of_transformers() -> None:
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    pad, ids = 9, [1, 2, 9, 3, 9, 4, 5]
    found, places = among_pictures(ids, pad, [(4, 8), (6, 2)])
    assert found == [1, 2, *[9] * 8, 3, *[9] * 3, 4, 5]
    model = Qwen2_5_VLModel.__new__(Qwen2_5_VLModel)
    torch.nn.Module.__init__(model)
    model.config = Qwen2_5_VLConfig()
    row = torch.tensor([found])
    wanted, _ = model.get_rope_index(row, (row == pad).int(), torch.tensor([[1, 4, 8], [1, 6, 2]]))
    assert torch.equal(places, wanted[:, 0])


@pytest.mark.parametrize("size", [(480, 320), (28, 30), (5000, 3000), (1000, 20), (300, 301)])
def test_pictures_are_seen_at_the_size_of_transformers(size: tuple[int, int]) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    wanted = smart_resize(size[1], size[0], 28, 56 * 56, 12_845_056)
    assert seen_size(*size) == wanted[::-1]


def mmproj(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The vision part as llama.cpp's converter names it: parts of their own instead of fused."""
    parts = {
        "norm1": "ln1", "norm2": "ln2", "attn.proj": "attn_out", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    found: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix("visual.")
        if name.startswith("patch_embed"):
            first, second = tensor.unbind(2)
            found |= {"v.patch_embd.weight": first, "v.patch_embd.weight.1": second}
        elif name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            part, _, end = rest.rpartition(".")
            if part == "attn.qkv":
                rows = zip("qkv", tensor.chunk(3), strict=True)
                found |= {f"v.blk.{number}.attn_{one}.{end}": row for one, row in rows}
            else:
                found[f"v.blk.{number}.{parts[part]}.{end}"] = tensor
        else:
            found[name.replace("merger.mlp", "mm").replace("merger.ln_q", "v.post_ln")] = tensor
    return found


def write_plain_gguf(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Write tensors unpacked, as mmproj files have them."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "clip")
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
