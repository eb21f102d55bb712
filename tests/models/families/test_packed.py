"""Every family from GGUF files: transformers alone as city96's tools make them, U-Nets in whole
checkpoints as stable-diffusion.cpp does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.tiny_models import catalogue, text, transformers, vae, words
from scripts.tiny_models.files import random_tensors, write_safetensors
from scripts.tiny_models.unet import Shapes
from tests.gguf_files import write_gguf
from tests.models.families.conftest import Draw

# Name of the file → (architecture that it names, type of its blocks, its tensors).
KINDS: dict[str, tuple[str, str, Shapes]] = {
    "sd1": ("sd1", "Q4_0", catalogue.sd1()),
    "sd2": ("sd2", "Q8_0", catalogue.sd2()),
    "sdxl": ("sdxl", "Q4_0", catalogue.sdxl()),
    "refiner": ("sdxl", "Q8_0", catalogue.refiner()),
    "sd3_medium": ("sd3", "Q8_0", transformers.sd3(width=128, head=64)),
    "sd3.5_large": ("sd3", "Q4_0", transformers.sd3(normed=True)),
    "sd3.5_medium": ("sd3", "Q8_0", transformers.sd3(normed=True, second=1)),
    "flux1-schnell": ("flux", "Q5_0", transformers.flux(guided=False)),
    "flux1-fill-dev": ("flux", "Q4_0", transformers.flux(beside=320)),
    "flux1-kontext-dev": ("flux", "Q8_0", transformers.flux()),
    "klein-4b": ("flux", "Q4_0", transformers.flux2()),
    "dev-flux.2": ("flux", "Q8_0", transformers.flux2(guided=True)),
    "chroma1-hd": ("flux", "Q4_0", transformers.chroma()),
    "z_image_turbo": ("lumina2", "Q4_0", transformers.z_image(context=32)),
    "qwen-image": ("qwen_image", "Q4_0", transformers.qwen_image(context=32)),
    "edit-qwen": ("qwen_image", "Q8_0", transformers.qwen_image(context=32)),
    "lumina_2": ("lumina2", "Q8_0", transformers.lumina2(width=192, head=96)),
}
PARTS: dict[str, Shapes] = {
    "vae16": vae.vae(vae.SIXTEEN),
    "vae32": vae.flux2_vae(),
    "video_vae": vae.video_vae(),
    "clip_l": text.clip(text.CLIP_L),
    "clip_g": text.clip(text.CLIP_G),
    "t5xxl": text.t5(),
    "qwen3": text.qwen3(),
    "deep_qwen3": text.qwen3(layers=27),
    "qwen25": {**text.qwen25(), **text.qwen_vision()},
    "gemma2": text.gemma2(),
    "mistral": text.mistral(),
}
BESIDE: dict[str, tuple[str, ...]] = {
    "sd3": ("vae16", "clip_l", "clip_g"),
    "flux": ("vae16", "clip_l", "t5xxl"),
    "klein": ("vae32", "deep_qwen3"),
    "dev": ("vae32", "mistral"),
    "chroma": ("vae16", "t5xxl"),
    "z_image": ("vae16", "qwen3"),
    "qwen": ("video_vae", "qwen25"),
    "edit": ("video_vae", "qwen25"),
    "lumina": ("vae16", "gemma2"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packed-parts")
    made = {
        name: random_tensors(shapes, n) for n, (name, shapes) in enumerate(PARTS.items(), start=1)
    }
    made["gemma2"] |= words.carried()
    made["mistral"] |= words.carried_tekken()
    return {
        name: write_safetensors(folder / f"{name}.safetensors", tensors, "F32")
        for name, tensors in made.items()
    }


def beside(files: dict[str, Path], name: str) -> dict[str, Path]:
    """The other files of a kind, by the folder of each."""
    names = next((parts for lead, parts in BESIDE.items() if name.startswith(lead)), ())
    folders = ("VAE", "text_encoder:1", "text_encoder:2")
    return {folder: files[part] for folder, part in zip(folders, names, strict=False)}


# U-Nets have some hundred layers to unpack: one of them on every change, the rest with the slow.
SLOW = ("sd2", "sdxl", "refiner")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in KINDS]
)
def test_packed_weights_draw_what_their_numbers_draw_in_every_mode(
    files: dict[str, Path], draw: Draw, tmp_path: Path, name: str
) -> None:
    arch, kind, shapes = KINDS[name]
    source = write_safetensors(tmp_path / "source.safetensors", random_tensors(shapes, 9), "F32")
    packed = tmp_path / f"{name}-{kind}.gguf"
    meant = write_gguf(source, packed, kind, arch=arch, flattens=True)
    plain = write_safetensors(
        tmp_path / f"{name}.safetensors",
        {key: torch.from_numpy(numbers.copy()) for key, numbers in meant.items()},
        "F32",
    )
    values: dict[str, Any] = {"modules": beside(files, name), "prompt": "a cat", "steps": 1}
    drawn = draw(packed, **values)
    masters = drawn.bundle.components["denoiser"].masters
    assert any(master.stored.dtype == torch.uint8 for master in masters)
    wanted = draw(plain, **values).latents
    assert torch.equal(drawn.latents, wanted)
    for mode in ("medvram", "lowvram"):
        assert torch.equal(draw(packed, mode=mode, **values).latents, wanted), mode
