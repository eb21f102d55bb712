"""Names of layers as files spell them."""

import pytest

from sdforge.models.adapters.lora_keys import KeyTable, Target, key_table, original_unet_name
from sdforge.models.checkpoint import read_header
from sdforge.models.families import FAMILIES
from sdforge.models.families.sd_keys import checkpoint_shapes
from tests.tiny import TINY, sparse_checkpoint

TO_Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
TO_OUT = "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0"
CONV = "down_blocks.0.resnets.1.conv1"
CLIP = "encoder.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The U-Net's layers, diffusers' name → the original one, as diffusers' converter has them."""
    path = tmp_path_factory.mktemp("keys") / "x.safetensors"
    header = read_header(sparse_checkpoint(path, checkpoint_shapes(TINY)))
    found = FAMILIES.get("sd1").recipe("denoiser", header).sources
    prefix, end = "model.diffusion_model.", ".weight"
    return {
        name.removesuffix(end): source.key.removeprefix(prefix).removesuffix(end)
        for name, source in found.items()
        if name.endswith(end)
    }


@pytest.fixture(scope="module")
def table(originals: dict[str, str]) -> KeyTable:
    return key_table("sd1", {"denoiser": list(originals), "text_encoder": [CLIP]})


def test_original_names_are_those_of_diffusers_converter(originals: dict[str, str]) -> None:
    original = original_unet_name(originals)
    assert {layer: original(layer) for layer in originals} == originals


def test_every_layer_is_found_by_all_its_spellings(
    table: KeyTable, originals: dict[str, str]
) -> None:
    for layer, original in originals.items():
        wanted = (Target("denoiser", layer),)
        for name in (
            f"lora_unet_{layer.replace('.', '_')}",
            f"lora_unet_{original.replace('.', '_')}",
            f"unet.{layer}",
            f"base_model.model.{layer}",
            f"base_model.model.unet.{layer}",
            f"diffusion_model.{original}",
            f"model.diffusion_model.{original}",
            f"oft_unet_{layer.replace('.', '_')}",
            layer,
        ):
            assert table.find(name) == wanted, name


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", TO_Q),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", TO_Q),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q", TO_Q),
        ("unet.up_blocks.3.attentions.2.transformer_blocks.0.attn2.processor.to_out", TO_OUT),
        ("lora_unet_output_blocks_11_1_transformer_blocks_0_attn2_to_out_0", TO_OUT),
        ("lora_unet_input_blocks_2_0_in_layers_2", CONV),
        ("lora_unet_input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("lora_unet_output_blocks_2_1_conv", "up_blocks.0.upsamplers.0.conv"),
        ("lora_unet_output_blocks_5_2_conv", "up_blocks.1.upsamplers.0.conv"),
        ("lora_unet_middle_block_1_proj_in", "mid_block.attentions.0.proj_in"),
        ("lora_unet_time_embed_0", "time_embedding.linear_1"),
        ("lora_unet_out_2", "conv_out"),
    ],
)
def test_names_that_real_files_use_are_found(table: KeyTable, name: str, layer: str) -> None:
    assert table.find(name) == (Target("denoiser", layer),)


@pytest.mark.parametrize(
    "name",
    [
        "lora_te_text_model_encoder_layers_1_self_attn_q_proj",
        "lora_te1_text_model_encoder_layers_1_self_attn_q_proj",
        "text_encoder.text_model.encoder.layers.1.self_attn.q_proj",
        "base_model.model.text_encoder.text_model.encoder.layers.1.self_attn.q_proj",
        "clip_l.text_model.encoder.layers.1.self_attn.q_proj",
    ],
)
def test_the_text_encoder_is_found(table: KeyTable, name: str) -> None:
    assert table.find(name) == (Target("text_encoder", CLIP),)


def test_sdxl_tells_its_two_text_encoders_apart() -> None:
    layers = {"denoiser": [], "text_encoder": [CLIP], "text_encoder_2": [f"text_model.{CLIP}"]}
    table = key_table("sdxl", layers)
    flat = "text_model_encoder_layers_1_self_attn_q_proj"
    assert table.find(f"lora_te1_{flat}") == (Target("text_encoder", CLIP),)
    assert table.find(f"lora_te2_{flat}") == (Target("text_encoder_2", f"text_model.{CLIP}"),)
    assert table.find(f"text_encoder_2.{flat}")[0].role == "text_encoder_2"
    assert table.find(f"lora_te_{flat}") == ()


def test_families_without_a_row_are_found_by_plain_names() -> None:
    layer = "layers.3.attention.to_q"
    table = key_table("something-new", {"denoiser": [layer]})
    for name in (
        f"transformer.{layer}",
        f"diffusion_model.{layer}",
        "lora_unet_layers_3_attention_to_q",
    ):
        assert table.find(name) == (Target("denoiser", layer),)


def test_other_names_are_found_nowhere(table: KeyTable) -> None:
    for name in ("", "lora_unet_", "lora_unet_double_blocks_0_img_attn_qkv", "unet.conv_inn"):
        assert table.find(name) == ()
