"""Every tiny model by name: what it is called on disk, where it belongs, how it is written.

`CATALOGUE` maps a file's place below a models folder to the function that writes it. Tests ask
`write` for single ones; `make_tiny_checkpoints.py --all` writes the lot (about 150 MB, since the
token tables keep their real number of rows).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from . import adapters, text, transformers, unet, vae, words
from .diffusers_folder import write_diffusers_folder
from .files import (
    random_tensors,
    with_prefix,
    write_ckpt,
    write_gguf,
    write_safetensors,
    write_scaled_fp8,
)
from .unet import Shapes, UnetSizes

UNET = "model.diffusion_model."
VAE = "first_stage_model."
SD1_TEXT = "cond_stage_model.transformer."
SD2_TEXT = "cond_stage_model.model."
XL_TEXT = "conditioner.embedders.0.transformer."
XL_TEXT_2 = "conditioner.embedders.1.model."
REFINER_TEXT = "conditioner.embedders.0.model."
SIZE = {"modelspec.resolution": "64x64"}
V_SIZE = {**SIZE, "modelspec.prediction_type": "v"}

Write = Callable[[Path, int], Path]


def sd1(sizes: UnetSizes = unet.SD1) -> Shapes:
    """A whole SD 1.x checkpoint: usual, inpainting or editing, by its input channels."""
    return {
        **with_prefix(UNET, unet.unet(sizes)),
        **with_prefix(VAE, vae.vae(vae.SD)),
        **with_prefix(SD1_TEXT, text.clip(text.CLIP_L)),
    }


def sd2() -> Shapes:
    """A whole SD 2.x checkpoint; nothing in it tells v from epsilon."""
    return {
        **with_prefix(UNET, unet.unet(unet.SD2)),
        **with_prefix(VAE, vae.vae(vae.SD)),
        **with_prefix(SD2_TEXT, text.open_clip(text.OPEN_CLIP_H)),
    }


def sdxl() -> Shapes:
    """A whole SDXL base checkpoint."""
    return {
        **with_prefix(UNET, unet.unet(unet.SDXL)),
        **with_prefix(VAE, vae.vae(vae.SD)),
        **with_prefix(XL_TEXT, text.clip(text.CLIP_L)),
        **with_prefix(XL_TEXT_2, text.open_clip(text.CLIP_G)),
    }


def refiner() -> Shapes:
    """A whole SDXL refiner: one text encoder, the larger one."""
    return {
        **with_prefix(UNET, unet.unet(unet.REFINER)),
        **with_prefix(VAE, vae.vae(vae.SD)),
        **with_prefix(REFINER_TEXT, text.open_clip(text.CLIP_G)),
    }


def sd3(normed: bool = False, second: int = 0) -> Shapes:
    """A whole SD 3 checkpoint with its three text encoders, both CLIPs with a projection.

    T5 is as wide as both CLIPs beside each other, or wider, as in the real one.
    """
    projected = replace(text.CLIP_L, projection=True)
    return {
        **with_prefix(UNET, transformers.sd3(normed=normed, second=second)),
        **with_prefix(VAE, vae.vae(vae.SIXTEEN)),
        **with_prefix("text_encoders.clip_l.transformer.", text.clip(projected)),
        **with_prefix("text_encoders.clip_g.transformer.", text.clip(text.CLIP_G)),
        **with_prefix("text_encoders.t5xxl.transformer.", text.t5(text.WIDE_T5)),
    }


def _file(
    shapes: Callable[[], Shapes], dtype: str = "F16", about: Mapping[str, str] = SIZE
) -> Write:
    def write_it(path: Path, seed: int) -> Path:
        return write_safetensors(path, random_tensors(shapes(), seed), dtype, about)

    return write_it


def _flux_scaled(path: Path, seed: int) -> Path:
    return write_scaled_fp8(path, random_tensors(transformers.flux(), seed))


def _flux_gguf(quantisation: str) -> Write:
    def write_it(path: Path, seed: int) -> Path:
        return write_gguf(path, random_tensors(transformers.flux(), seed), "flux", quantisation)

    return write_it


def _gemma2(path: Path, seed: int) -> Path:
    tensors = random_tensors(text.gemma2(), seed) | words.carried()
    return write_safetensors(path, tensors, "BF16")


def _mistral(path: Path, seed: int) -> Path:
    tensors = random_tensors(text.mistral(), seed) | words.carried_tekken()
    return write_safetensors(path, tensors, "BF16")


def _sd1_pickle(path: Path, seed: int) -> Path:
    return write_ckpt(path, random_tensors(sd1(), seed))


def _tensors(made: Callable[[int], adapters.Tensors], dtype: str = "F16") -> Write:
    def write_it(path: Path, seed: int) -> Path:
        return write_safetensors(path, made(seed), dtype)

    return write_it


def _lora_kind(kind: str) -> Write:
    return _tensors(lambda seed: adapters.kohya(adapters.SD_LAYERS, kind, seed))


def _lora_for(layers: Mapping[str, tuple[int, int]], peft: bool = False) -> Write:
    spell = adapters.peft if peft else adapters.kohya
    return _tensors(lambda seed: spell(layers, seed=seed))


def _embedding(widths: Mapping[str, int]) -> Write:
    return _tensors(lambda seed: adapters.embedding(widths, seed=seed), "F32")


def _old_embedding(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(adapters.old_embedding(path.stem, seed=seed), path)
    return path


CATALOGUE: dict[str, Write] = {
    "Stable-diffusion/sd1.safetensors": _file(sd1),
    "Stable-diffusion/sd1-inpaint.safetensors": _file(lambda: sd1(unet.SD1_INPAINT)),
    "Stable-diffusion/sd1-edit.safetensors": _file(lambda: sd1(unet.SD1_EDIT)),
    "Stable-diffusion/sd1.ckpt": _sd1_pickle,
    "Stable-diffusion/sd1-diffusers": write_diffusers_folder,
    "Stable-diffusion/sd2-v.safetensors": _file(sd2, about=V_SIZE),
    "Stable-diffusion/sdxl.safetensors": _file(sdxl),
    "Stable-diffusion/sdxl-refiner.safetensors": _file(refiner),
    "Stable-diffusion/sd3.safetensors": _file(sd3),
    "Stable-diffusion/sd35.safetensors": _file(lambda: sd3(normed=True)),
    "Stable-diffusion/sd35-medium.safetensors": _file(lambda: sd3(normed=True, second=1)),
    "diffusion_models/flux-dev.safetensors": _file(transformers.flux),
    "diffusion_models/flux-fill.safetensors": _file(lambda: transformers.flux(beside=320)),
    "diffusion_models/flux-schnell-fp8.safetensors": _file(
        lambda: transformers.flux(guided=False), "F8_E4M3"
    ),
    "diffusion_models/flux-dev-scaled-fp8.safetensors": _flux_scaled,
    "diffusion_models/flux-dev-Q4_0.gguf": _flux_gguf("Q4_0"),
    "diffusion_models/flux-dev-Q8_0.gguf": _flux_gguf("Q8_0"),
    "diffusion_models/flux2-klein.safetensors": _file(transformers.flux2, "BF16"),
    "diffusion_models/flux2-dev.safetensors": _file(
        lambda: transformers.flux2(guided=True), "BF16"
    ),
    "diffusion_models/chroma.safetensors": _file(transformers.chroma, "BF16"),
    "diffusion_models/z-image.safetensors": _file(transformers.z_image, "BF16"),
    "diffusion_models/qwen-image.safetensors": _file(
        lambda: with_prefix(UNET, transformers.qwen_image(context=32)), "BF16"
    ),
    "diffusion_models/qwen-image-edit.safetensors": _file(
        lambda: with_prefix(UNET, transformers.qwen_image(context=32)), "BF16"
    ),
    "diffusion_models/lumina2.safetensors": _file(transformers.lumina2, "BF16"),
    "VAE/sd.safetensors": _file(lambda: vae.vae(vae.SD)),
    "VAE/ae.safetensors": _file(lambda: vae.vae(vae.SIXTEEN)),
    "VAE/flux2-vae.safetensors": _file(vae.flux2_vae),
    "VAE/qwen-image.safetensors": _file(vae.video_vae, "BF16"),
    "VAE-approx/taesd_decoder.safetensors": _file(vae.taesd_decoder),
    "text_encoder/clip_l.safetensors": _file(lambda: text.clip(text.CLIP_L)),
    "text_encoder/clip_g.safetensors": _file(lambda: text.clip(text.CLIP_G)),
    "text_encoder/t5xxl.safetensors": _file(text.t5),
    "text_encoder/qwen3.safetensors": _file(lambda: text.qwen3(width=64), "BF16"),
    "text_encoder/qwen3-deep.safetensors": _file(lambda: text.qwen3(layers=28), "BF16"),
    "text_encoder/qwen25-vl.safetensors": _file(
        lambda: {**text.qwen25(), **text.qwen_vision()}, "BF16"
    ),
    "text_encoder/mistral.safetensors": _mistral,
    "text_encoder/gemma2.safetensors": _gemma2,
    "text_encoder/t5xxl-fp8.safetensors": _file(text.t5, "F8_E4M3"),
    "ControlNet/sd1.safetensors": _file(
        lambda: with_prefix("control_model.", unet.controlnet(unet.SD1))
    ),
    "ControlNet/sdxl.safetensors": _file(
        lambda: with_prefix("control_model.", unet.controlnet(unet.SDXL))
    ),
    **{f"Lora/sd1-{kind}.safetensors": _lora_kind(kind) for kind in adapters.KINDS},
    "Lora/sd1-locon.safetensors": _tensors(adapters.locon),
    "Lora/sd1-locon-cp.safetensors": _tensors(lambda seed: adapters.locon(seed, middle=True)),
    "Lora/sd1-peft.safetensors": _lora_for(adapters.PEFT_LAYERS, peft=True),
    "Lora/sdxl.safetensors": _lora_for(adapters.SDXL_LAYERS),
    "Lora/flux.safetensors": _lora_for(adapters.FLUX_LAYERS),
    "Lora/flux-peft.safetensors": _lora_for(adapters.FLUX_PEFT_LAYERS, peft=True),
    "Lora/z-image.safetensors": _lora_for(adapters.Z_IMAGE_LAYERS, peft=True),
    "embeddings/sd1.safetensors": _embedding({"emb_params": 32}),
    "embeddings/sd1-old.pt": _old_embedding,
    "embeddings/sdxl.safetensors": _embedding({"clip_l": 32, "clip_g": 48}),
}
"""Place below the models folder → what writes it (path, seed)."""


def write(name: str, folder: Path, seed: int = 0) -> Path:
    """Write one model of the catalogue below `folder`; returns its path."""
    return CATALOGUE[name](folder / name, seed)


def write_all(folder: Path, seed: int = 0) -> list[Path]:
    """Write all of them."""
    return [write(name, folder, seed + number) for number, name in enumerate(CATALOGUE)]
