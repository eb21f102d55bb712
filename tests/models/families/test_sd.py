"""The networks that recipes build must be those that diffusers and transformers load themselves."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scripts.tiny_models import vae as tiny_vae
from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.models.bundle import ModelBundle
from sdforge.models.checkpoint import CheckpointHeader, read_header
from sdforge.models.families import FAMILIES
from sdforge.models.families.sd_keys import Sizes, checkpoint_shapes
from sdforge.models.families.sd_shapes import unet_config, vae_config
from tests.tiny import TINY, Parts, sparse_checkpoint

# Written out by hand, not derived: what the tiny checkpoint's networks are.
UNET = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [32, 64, 64, 64],
    "layers_per_block": 2,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [32, 32, 64, 64],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 8,
    "latent_channels": 4,
}


def loaded_by_diffusers(kind: Any, config: dict[str, Any], file: Path, folder: Path) -> Any:
    (folder / "config.json").write_text(json.dumps(config))
    return kind.from_single_file(file, config=str(folder), local_files_only=True).eval()


def test_the_denoiser_is_the_unet_that_diffusers_loads(
    loaded: Parts, bundle: ModelBundle, checkpoint: Path, tmp_path: Path
) -> None:
    from diffusers import UNet2DConditionModel

    reference = loaded_by_diffusers(UNet2DConditionModel, UNET, checkpoint, tmp_path)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    hidden = torch.randn(2, 77, 32, generator=torch.Generator().manual_seed(1))
    with loaded.memory.lease(bundle.components["denoiser"]) as module, torch.no_grad():
        got = module(x, 500.5, encoder_hidden_states=hidden).sample
        wanted = reference(x, 500.5, encoder_hidden_states=hidden).sample
    assert torch.allclose(got, wanted, atol=1e-5)
    assert wanted.std() > 0.1


def test_the_vae_is_the_one_that_diffusers_loads(
    bundle: ModelBundle, checkpoint: Path, tmp_path: Path
) -> None:
    from diffusers import AutoencoderKL

    reference = loaded_by_diffusers(AutoencoderKL, VAE, checkpoint, tmp_path)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        picture = (reference.decode(latents / 0.18215).sample / 2 + 0.5).clamp(0, 1)
        mean = reference.encode(pixels * 2 - 1).latent_dist.mean * 0.18215
    assert torch.allclose(bundle.vae.decode(latents), picture, atol=1e-5)
    assert torch.allclose(bundle.vae.encode(pixels), mean, atol=1e-5)
    assert picture.std() > 0.01


def test_the_text_encoder_is_the_one_that_transformers_loads(
    loaded: Parts, bundle: ModelBundle, checkpoint: Path
) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    prefix = "cond_stage_model.transformer.text_model."
    config = CLIPTextConfig(
        hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1
    )
    reference = CLIPTextModel(config).eval()
    reference.load_state_dict(
        {
            key.removeprefix(prefix): tensor
            for key, tensor in load_file(checkpoint).items()
            if key.startswith(prefix)
        }
    )
    ids = torch.randint(0, 49406, (1, 77), generator=torch.Generator().manual_seed(0))
    with loaded.memory.lease(bundle.components["text_encoder"]) as module, torch.no_grad():
        states = reference(input_ids=ids, output_hidden_states=True)
        assert torch.allclose(module(ids, 2), states.last_hidden_state, atol=1e-5)
        earlier = reference.final_layer_norm(states.hidden_states[-2])
        assert torch.allclose(module(ids, 1), earlier, atol=1e-5)


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> CheckpointHeader:
    path = tmp_path_factory.mktemp("full") / "full.safetensors"
    return read_header(sparse_checkpoint(path, checkpoint_shapes(Sizes())))


def test_shapes_of_sd15_give_its_published_configuration(full_size: CheckpointHeader) -> None:
    unet, vae = unet_config(full_size), vae_config(full_size)
    clip = FAMILIES.get("sd1").recipe("text_encoder", full_size).skeleton.example
    assert unet["block_out_channels"] == (320, 640, 1280, 1280)
    assert (unet["cross_attention_dim"], unet["norm_num_groups"]) == (768, 32)
    assert unet["attention_head_dim"] == 8
    assert vae["block_out_channels"] == (128, 256, 512, 512)
    assert (vae["norm_num_groups"], vae["latent_channels"], vae["layers_per_block"]) == (32, 4, 2)
    layer = clip.get_submodule("encoder.layers.0")
    assert (clip.width, clip.layer_count) == (768, 12)
    assert layer.get_submodule("self_attn").heads == 12
    assert layer.get_submodule("mlp.fc1").out_features == 3072


def test_recipes_of_a_full_size_checkpoint_are_complete(full_size: CheckpointHeader) -> None:
    family = FAMILIES.get("sd1")
    used = set()
    for role in family.roles:
        recipe = family.recipe(role, full_size)
        assert all(tensor.is_meta for tensor in recipe.skeleton.example.parameters())
        used |= {recipe.sources[name].key for name in recipe.skeleton.shapes}
    assert used == set(full_size.tensors)


def changed(tmp_path: Path, shapes: dict[str, tuple[int, ...]], **metadata: str) -> Any:
    said = {key.replace("__", "."): value for key, value in metadata.items()}
    return read_header(sparse_checkpoint(tmp_path / "m.safetensors", shapes, metadata=said))


def test_groups_follow_the_width_unless_metadata_says_otherwise(tmp_path: Path) -> None:
    wide = Sizes(
        unet_width=64, unet_factors=(1, 2, 2, 2), text_width=192, text_layers=4, vae_width=32
    )
    header = changed(tmp_path, checkpoint_shapes(wide))
    assert unet_config(header)["norm_num_groups"] == 16
    assert vae_config(header)["norm_num_groups"] == 8
    clip = FAMILIES.get("sd1").recipe("text_encoder", header).skeleton.example
    assert clip.get_submodule("encoder.layers.0.self_attn").heads == 3
    header = changed(
        tmp_path,
        checkpoint_shapes(wide),
        sdforge__unet_norm_groups="32",
        sdforge__vae_norm_groups="4",
    )
    assert unet_config(header)["norm_num_groups"] == 32
    assert vae_config(header)["norm_num_groups"] == 4
    header = changed(tmp_path, checkpoint_shapes(wide), sdforge__unet_norm_groups="7")
    with pytest.raises(UnsupportedCheckpoint, match="7 groups"):
        unet_config(header)


@pytest.mark.parametrize(
    ("prefix", "role", "says"),
    [
        ("first_stage_model.", "vae", "holds no VAE"),
        ("cond_stage_model.", "text_encoder", "holds no text encoder"),
        (
            "model.diffusion_model.output_blocks.3.0.in_layers.2.weight",
            "denoiser",
            "1 of 684 tensors are missing",
        ),
        (
            "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc2.bias",
            "text_encoder",
            "mlp.fc2.bias",
        ),
        ("first_stage_model.encoder.conv_in.weight", "vae", "encoder.conv_in.weight is missing"),
        ("first_stage_model.decoder.up.2.block.1.norm1.bias", "vae", "norm1.bias"),
    ],
)
def test_a_missing_part_is_named(tmp_path: Path, prefix: str, role: str, says: str) -> None:
    shapes = {k: v for k, v in checkpoint_shapes(TINY).items() if not k.startswith(prefix)}
    with pytest.raises(MissingModel, match=says) as caught:
        FAMILIES.get("sd1").recipe(role, changed(tmp_path, shapes))
    assert "m.safetensors" in caught.value.message


def test_shapes_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    shapes = checkpoint_shapes(TINY)
    shapes["model.diffusion_model.middle_block.0.in_layers.2.weight"] = (64, 60, 3, 3)
    with pytest.raises(UnsupportedCheckpoint, match=r"\[64, 60, 3, 3\]"):
        FAMILIES.get("sd1").recipe("denoiser", changed(tmp_path, shapes))


def test_a_vae_with_other_latents_is_refused(tmp_path: Path) -> None:
    shapes = checkpoint_shapes(
        Sizes(unet_width=32, vae_width=32, text_width=32, text_layers=1, latent_channels=16)
    )
    with pytest.raises(UnsupportedCheckpoint, match="16 latent channels"):
        FAMILIES.get("sd1").recipe("vae", changed(tmp_path, shapes))


def test_a_vae_of_another_scale_is_refused(tmp_path: Path) -> None:
    shapes = tiny_vae.vae(replace(tiny_vae.SD, factors=(1, 1, 2)))
    with pytest.raises(UnsupportedCheckpoint, match="4 times .* wants one .* 8 times"):
        FAMILIES.get("sd1").recipe("vae", changed(tmp_path, shapes))


def test_a_vae_alone_and_a_text_encoder_without_text_model_are_understood(tmp_path: Path) -> None:
    shapes = checkpoint_shapes(TINY)
    vae = {
        key.removeprefix("first_stage_model."): shape
        for key, shape in shapes.items()
        if key.startswith("first_stage_model.")
    }
    text = {
        key.replace("transformer.text_model.", "transformer."): shape
        for key, shape in shapes.items()
        if key.startswith("cond_stage_model.")
    }
    text["cond_stage_model.transformer.embeddings.position_ids"] = (1, 77)
    family = FAMILIES.get("sd1")
    alone = family.recipe("vae", changed(tmp_path, vae))
    assert {source.key for source in alone.sources.values()} == set(vae)
    encoder = family.recipe("text_encoder", changed(tmp_path, text))
    assert len(encoder.sources) == len(text) - 1
