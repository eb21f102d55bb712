"""The files that users have, at full size and without their weights: what they are known as."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from sdforge.models.architectures import architecture
from sdforge.models.checkpoint import read_header
from sdforge.models.parts import parts
from tests.real_headers import (
    COMPANIONS,
    FLUX2_9B,
    FLUX2_DEV,
    REAL,
    REFINER,
    SD2,
    SDXL,
    Real,
    Shapes,
    UNet,
    chroma,
    flux,
    flux2,
    ldm_unet,
    lumina2,
    mmdit,
    qwen_image,
    z_image,
)
from tests.tiny import sparse_checkpoint


@pytest.mark.parametrize("real", REAL, ids=lambda real: real.file)
def test_real_files_are_known_by_their_header(real: Real, tmp_path: Path) -> None:
    path = sparse_checkpoint(tmp_path / f"{real.file}.safetensors", real.make(), dtype=real.dtype)

    header = read_header(path)
    found = architecture(header.layout)

    assert found is not None
    assert (found.family, found.variant) == (real.family, real.variant)
    assert any(character.isdigit() for character in found.reason)
    if real.parts:
        assert tuple(part.role for part in parts(header.layout)) == real.parts


@pytest.mark.parametrize(
    ("name", "make", "kind"), COMPANIONS, ids=[name for name, _, _ in COMPANIONS]
)
def test_single_networks_are_known_by_their_header(
    name: str, make: Any, kind: str, tmp_path: Path
) -> None:
    header = read_header(sparse_checkpoint(tmp_path / f"{name}.safetensors", make()))
    assert [part.kind for part in parts(header.layout)] == [kind]
    assert architecture(header.layout) is None


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", "transformer."])
def test_a_denoiser_is_known_under_every_prefix(prefix: str, tmp_path: Path) -> None:
    shapes = {prefix + name: shape for name, shape in flux(guidance=True)}
    header = read_header(sparse_checkpoint(tmp_path / "x.safetensors", shapes))
    assert [(part.kind, part.prefix) for part in parts(header.layout)] == [("flux", prefix)]


def _meta(shapes: Shapes) -> dict[str, Any]:
    import torch

    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _unet(net: UNet) -> tuple[Any, dict[str, Any]]:
    import torch
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    levels = len(net.factors)
    has = [bool(depth) for depth in net.depths[:-1]]
    config: dict[str, Any] = {
        "in_channels": 4,
        "block_out_channels": tuple(net.width * factor for factor in net.factors),
        "layers_per_block": 2,
        "down_block_types": tuple("CrossAttnDownBlock2D" if x else "DownBlock2D" for x in has),
        "up_block_types": tuple("CrossAttnUpBlock2D" if x else "UpBlock2D" for x in has[::-1]),
        "transformer_layers_per_block": tuple(max(depth, 1) for depth in net.depths[:levels]),
        "cross_attention_dim": net.context,
        "attention_head_dim": tuple(net.width * factor // 64 for factor in net.factors),
        "use_linear_projection": True,
    }
    if net.labels:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": net.labels,
            "class_embed_type": None,
        }
    if net is REFINER:
        config["transformer_layers_per_block"] = 4
    with torch.device("meta"):
        module = UNet2DConditionModel(**config)
    prefixed = {f"model.diffusion_model.{name}": shape for name, shape in ldm_unet(net)}
    return module, convert_ldm_unet_checkpoint(_meta(prefixed), dict(config))


def _transformer(name: str) -> tuple[Any, dict[str, Any]]:
    import diffusers
    import torch
    from diffusers.loaders import single_file_utils as convert

    large = {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432}
    medium = {"num_attention_heads": 24, "caption_projection_dim": 1536, "num_layers": 24}
    common = {"joint_attention_dim": 4096, "pooled_projection_dim": 2048, "in_channels": 16}
    norms = {"qk_norm": "rms_norm"}
    dual = {"dual_attention_layers": tuple(range(13))}
    makers: dict[str, tuple[Any, dict[str, Any], Any, Shapes]] = {
        "flux-dev": (
            diffusers.FluxTransformer2DModel, {"guidance_embeds": True},
            convert.convert_flux_transformer_checkpoint_to_diffusers, dict(flux(guidance=True)),
        ),
        "flux2-dev": (
            diffusers.Flux2Transformer2DModel, {},
            convert.convert_flux2_transformer_checkpoint_to_diffusers,
            dict(flux2(**FLUX2_DEV, guidance=True)),
        ),
        "flux2-klein": (
            diffusers.Flux2Transformer2DModel,
            {"num_attention_heads": 32, "num_layers": 8, "num_single_layers": 24,
             "joint_attention_dim": 12288, "guidance_embeds": False},
            convert.convert_flux2_transformer_checkpoint_to_diffusers, dict(flux2(**FLUX2_9B)),
        ),
        "chroma": (
            diffusers.ChromaTransformer2DModel, {},
            convert.convert_chroma_transformer_checkpoint_to_diffusers, dict(chroma()),
        ),
        "zimage": (
            diffusers.ZImageTransformer2DModel, {},
            convert.convert_z_image_transformer_checkpoint_to_diffusers, dict(z_image()),
        ),
        "lumina2": (
            diffusers.Lumina2Transformer2DModel, {"cap_feat_dim": 2304},
            convert.convert_lumina2_to_diffusers, dict(lumina2()),
        ),
        "qwen-image": (diffusers.QwenImageTransformer2DModel, {}, dict, dict(qwen_image())),
        "sd3.5-large": (
            diffusers.SD3Transformer2DModel,
            {**large, **common, **norms, "pos_embed_max_size": 192, "sample_size": 128},
            convert.convert_sd3_transformer_checkpoint_to_diffusers, dict(mmdit(38)),
        ),
        "sd3.5-medium": (
            diffusers.SD3Transformer2DModel,
            {**medium, **common, **norms, **dual, "pos_embed_max_size": 384, "sample_size": 128},
            convert.convert_sd3_transformer_checkpoint_to_diffusers,
            dict(mmdit(24, second=13, places=384)),
        ),
    }  # fmt: skip
    kind, config, converter, shapes = makers[name]
    with torch.device("meta"):
        module = kind(**config)
    return module, converter(_meta(shapes))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "sd2",
        "sdxl",
        "refiner",
        "flux-dev",
        "flux2-dev",
        "flux2-klein",
        "chroma",
        "zimage",
        "lumina2",
        "qwen-image",
        "sd3.5-large",
        "sd3.5-medium",
    ],
)
def test_the_tables_are_those_of_diffusers(name: str) -> None:
    unets = {"sd2": SD2, "sdxl": SDXL, "refiner": REFINER}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, converted = _unet(unets[name]) if name in unets else _transformer(name)
    wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in converted.items()}
    assert found == wanted
