"""diffusers' own converters and classes must take the tiny models for real ones."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)
from diffusers.loaders import single_file_utils as diffusers_files
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from scripts.tiny_models import catalogue, text, transformers, unet, vae
from scripts.tiny_models.files import with_prefix
from scripts.tiny_models.unet import Shapes, UnetSizes

Tensors = dict[str, torch.Tensor]


def empty(shapes: Shapes) -> Tensors:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def fill(network: nn.Module, weights: Tensors) -> None:
    network.load_state_dict(weights, strict=True, assign=True)


def make_unet(sizes: UnetSizes) -> UNet2DConditionModel:
    levels = len(sizes.factors)
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in sizes.depths]
    up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(sizes.depths)]
    # The last level of SD 1 has no transformers but its middle has.
    label = {}
    if sizes.label:
        label = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": sizes.label,
        }
    with torch.device("meta"):
        return UNet2DConditionModel(
            in_channels=sizes.in_channels,
            block_out_channels=[factor * sizes.width for factor in sizes.factors],
            layers_per_block=sizes.blocks,
            down_block_types=down,
            up_block_types=up,
            transformer_layers_per_block=[depth or 1 for depth in sizes.depths][:-1]
            + [sizes.middle_depth],
            cross_attention_dim=sizes.context,
            attention_head_dim=[8] * levels,
            norm_num_groups=8,
            use_linear_projection=sizes.linear,
            **label,
        )


@pytest.mark.parametrize(
    ("whole", "sizes"),
    [
        (catalogue.sd1(), unet.SD1),
        (catalogue.sd1(unet.SD1_INPAINT), unet.SD1_INPAINT),
        (catalogue.sd1(unet.SD1_EDIT), unet.SD1_EDIT),
        (catalogue.sd2(), unet.SD2),
        (catalogue.sdxl(), unet.SDXL),
        (catalogue.refiner(), unet.REFINER),
    ],
    ids=["sd1", "inpaint", "edit", "sd2", "sdxl", "refiner"],
)
def test_a_unet_becomes_diffusers_unet(whole: Shapes, sizes: UnetSizes) -> None:
    network = make_unet(sizes)
    converted = diffusers_files.convert_ldm_unet_checkpoint(empty(whole), dict(network.config))
    fill(network, converted)


@pytest.mark.parametrize("sizes", [vae.SD, vae.SIXTEEN], ids=["four channels", "sixteen"])
def test_an_autoencoder_becomes_diffusers_autoencoder(sizes: vae.VaeSizes) -> None:
    with torch.device("meta"):
        network = AutoencoderKL(
            block_out_channels=[factor * sizes.width for factor in sizes.factors],
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            layers_per_block=sizes.blocks,
            latent_channels=sizes.latent,
            norm_num_groups=8,
            use_quant_conv=sizes.quant,
            use_post_quant_conv=sizes.quant,
        )
    named = with_prefix("first_stage_model.", vae.vae(sizes))
    fill(network, diffusers_files.convert_ldm_vae_checkpoint(empty(named), dict(network.config)))


def make_clip(sizes: text.TextSizes) -> CLIPTextModelWithProjection:
    with torch.device("meta"):
        return CLIPTextModelWithProjection(
            CLIPTextConfig(
                hidden_size=sizes.width,
                intermediate_size=4 * sizes.width,
                num_hidden_layers=sizes.layers,
                num_attention_heads=2,
                projection_dim=sizes.width,
                vocab_size=sizes.vocabulary,
            )
        )


def test_clip_g_alone_is_transformers_model_with_projection() -> None:
    network = make_clip(text.CLIP_G)
    fill(network, empty(text.clip(text.CLIP_G)))


def test_clip_l_in_a_checkpoint_is_found_by_diffusers() -> None:
    found = diffusers_files.convert_ldm_clip_checkpoint(empty(catalogue.sd1()))
    assert set(found) == set(text.clip(text.CLIP_L))


@pytest.mark.parametrize(
    ("whole", "prefix"),
    [
        (catalogue.sd2(), catalogue.SD2_TEXT),
        (catalogue.sdxl(), catalogue.XL_TEXT_2),
        (catalogue.refiner(), catalogue.REFINER_TEXT),
    ],
    ids=["sd2", "sdxl", "refiner"],
)
def test_open_clip_becomes_transformers_clip(whole: Shapes, prefix: str) -> None:
    network = make_clip(text.CLIP_G)
    weights = diffusers_files.convert_open_clip_checkpoint(network, empty(whole), prefix)
    wanted = {name: value.shape for name, value in network.state_dict().items()}
    found = {name: value.shape for name, value in weights.items() if name in wanted}
    # SD 2 has no use for the pooled text, so diffusers leaves its projection in the file.
    assert wanted.keys() - found.keys() <= {"text_projection.weight"}
    assert all(shape == wanted[name] for name, shape in found.items())


def test_sd3_becomes_diffusers_transformer() -> None:
    for normed, second in ((False, 0), (True, 0), (True, 1)):
        with torch.device("meta"):
            network = SD3Transformer2DModel(
                sample_size=16,
                num_layers=2,
                attention_head_dim=32,
                num_attention_heads=2,
                joint_attention_dim=96,
                caption_projection_dim=64,
                pooled_projection_dim=80,
                pos_embed_max_size=24,
                dual_attention_layers=tuple(range(second)),
                qk_norm="rms_norm" if normed else None,
            )
        made = empty(catalogue.sd3(normed, second))
        own = {name: value for name, value in made.items() if name.startswith(catalogue.UNET)}
        fill(network, diffusers_files.convert_sd3_transformer_checkpoint_to_diffusers(own))


def test_sd3_carries_a_whole_t5() -> None:
    with torch.device("meta"):
        network = T5EncoderModel(
            T5Config(
                vocab_size=text.WIDE_T5.vocabulary,
                d_model=text.WIDE_T5.width,
                d_kv=text.WIDE_T5.width // 2,
                d_ff=2 * text.WIDE_T5.width,
                num_layers=text.WIDE_T5.layers,
                num_heads=2,
                feed_forward_proj="gated-gelu",
            )
        )
    weights = diffusers_files.convert_sd3_t5_checkpoint_to_diffusers(empty(catalogue.sd3()))
    assert {k: v.shape for k, v in weights.items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }


@pytest.mark.parametrize("guided", [True, False], ids=["dev", "schnell"])
def test_flux_of_full_width_becomes_diffusers_transformer(guided: bool) -> None:
    """The converter knows one width only, so the shapes are asked for at that width."""
    with torch.device("meta"):
        network = FluxTransformer2DModel(
            num_layers=1, num_single_layers=2, guidance_embeds=guided, in_channels=64
        )
    shapes = transformers.flux(3072, 1, 2, 4096, 768, 16, 128, guided)
    fill(network, diffusers_files.convert_flux_transformer_checkpoint_to_diffusers(empty(shapes)))


def test_z_image_becomes_diffusers_transformer() -> None:
    with torch.device("meta"):
        network = ZImageTransformer2DModel(
            dim=96,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=3,
            n_kv_heads=3,
            cap_feat_dim=64,
            axes_dims=[8, 12, 12],
            axes_lens=[64, 64, 64],
        )
    weights = empty(transformers.z_image())
    fill(network, diffusers_files.convert_z_image_transformer_checkpoint_to_diffusers(weights))


def test_qwen_image_has_diffusers_own_names() -> None:
    with torch.device("meta"):
        network = QwenImageTransformer2DModel(
            num_layers=2,
            attention_head_dim=32,
            num_attention_heads=2,
            joint_attention_dim=48,
            axes_dims_rope=(8, 12, 12),
        )
    fill(network, empty(transformers.qwen_image()))


@pytest.mark.parametrize("sizes", [unet.SD1, unet.SDXL], ids=["sd1", "sdxl"])
def test_a_controlnet_becomes_diffusers_controlnet(sizes: UnetSizes) -> None:
    with torch.device("meta"):
        network = ControlNetModel.from_unet(make_unet(sizes), load_weights_from_unet=False)
    named = with_prefix("control_model.", unet.controlnet(sizes))
    converted = diffusers_files.convert_controlnet_checkpoint(empty(named), dict(network.config))
    # diffusers' converter knows SD 1's ControlNets only: it forgets SDXL's label embedding.
    missing, unexpected = network.load_state_dict(converted, strict=False, assign=True)
    assert not unexpected
    assert all(name.startswith("add_embedding.") for name in missing)
    assert bool(missing) == bool(sizes.label)
