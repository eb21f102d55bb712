from collections.abc import Callable
from pathlib import Path

import pytest

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.core.request import Recommended
from sdforge.models.checkpoint import CheckpointHeader, read_header
from sdforge.models.detect import detect, recommended
from sdforge.models.families.sd_keys import Sizes, checkpoint_shapes
from tests.tiny import TINY, sparse_checkpoint

Shapes = dict[str, tuple[int, ...]]
UNET = "model.diffusion_model."


@pytest.fixture
def header(tmp_path: Path) -> Callable[..., CheckpointHeader]:
    def make(shapes: Shapes, **metadata: str) -> CheckpointHeader:
        said = {key.replace("__", "."): value for key, value in metadata.items()}
        return read_header(sparse_checkpoint(tmp_path / "m.safetensors", shapes, metadata=said))

    return make


def test_a_full_size_checkpoint_is_sd1_with_the_reason_in_words(
    header: Callable[..., CheckpointHeader],
) -> None:
    match = detect(header(checkpoint_shapes(Sizes())))

    assert (match.family, match.variant, match.prediction) == ("sd1", "standard", "epsilon")
    assert match.problem is None
    for word in ("width 320", "4 input channels", "width 768", "12 layers", "epsilon"):
        assert word in match.reason


def test_a_narrow_checkpoint_without_some_skip_connections_is_sd1_too(
    header: Callable[..., CheckpointHeader],
) -> None:
    shapes = checkpoint_shapes(TINY)
    assert sum(name.startswith(UNET) for name in shapes) == 684
    assert detect(header(shapes)).family == "sd1"


def test_v_prediction_is_read_from_metadata_or_a_key(
    header: Callable[..., CheckpointHeader],
) -> None:
    shapes = checkpoint_shapes(TINY)
    assert detect(header(shapes, modelspec__prediction_type="v")).prediction == "v"
    assert detect(header(shapes, modelspec__prediction_type="epsilon")).prediction == "epsilon"
    assert detect(header({**shapes, "v_pred": (0,)})).prediction == "v"


@pytest.mark.parametrize(
    ("channels", "variant"), [(9, "inpainting"), (8, "instruct-pix2pix"), (7, "7-channel")]
)
def test_models_with_more_input_channels_are_recognised_and_unknown_ones_refused(
    header: Callable[..., CheckpointHeader], channels: int, variant: str
) -> None:
    shapes = checkpoint_shapes(TINY)
    shapes[f"{UNET}input_blocks.0.0.weight"] = (32, channels, 3, 3)
    match = detect(header(shapes))
    assert (match.family, match.variant) == ("sd1", variant)
    if channels == 7:
        assert match.problem is not None
        assert variant in match.problem
    else:
        assert match.problem is None


def test_a_text_encoder_of_another_width_is_a_problem(
    header: Callable[..., CheckpointHeader],
) -> None:
    shapes = checkpoint_shapes(TINY)
    shapes["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"] = (9, 40)
    problem = detect(header(shapes)).problem
    assert problem is not None
    assert "width 32" in problem


@pytest.mark.parametrize(
    ("shapes", "name"),
    [
        ({f"{UNET}label_emb.0.0.weight": (8, 8)}, "Stable Diffusion XL"),
        ({f"{UNET}label_emb.weight": (8, 8)}, "Stable Diffusion upscaler"),
        ({f"{UNET}double_layers.0.attn.qkv.weight": (8, 8)}, "AuraFlow"),
        ({"double_stream_blocks.0.block.a": (8,)}, "HiDream"),
        ({"adaln_single.linear.weight": (8, 8)}, "PixArt"),
        ({"lora_unet_down_blocks_0.lora_up.weight": (8, 8)}, "LoRA"),
        ({"control_model.input_blocks.0.0.weight": (8, 4, 3, 3)}, "ControlNet"),
        ({"first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3)}, "VAE"),
        ({"decoder.conv_in.weight": (8, 4, 3, 3)}, "models/VAE"),
        ({"text_model.encoder.layers.0.layer_norm1.weight": (8,)}, "text encoder"),
        ({"down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3)}, "layout of diffusers"),
        ({"emb_params": (8, 768)}, "embedding"),
        ({}, "holds no tensors"),
        ({"something.else": (3,)}, "something.else"),
    ],
)
def test_other_kinds_are_refused_by_name(
    header: Callable[..., CheckpointHeader], shapes: Shapes, name: str
) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=name) as caught:
        detect(header(shapes))
    assert "m.safetensors" in caught.value.message


def test_the_metadata_of_an_unknown_kind_is_quoted(
    header: Callable[..., CheckpointHeader],
) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="brand-new-1"):
        detect(header({"a": (1,)}, modelspec__architecture="brand-new-1"))


def test_recommendations_are_read_from_metadata() -> None:
    said = {
        "modelspec.resolution": "128x96",
        "sdforge.cfg_scale": "4.5",
        "sdforge.steps": "25",
        "sdforge.sampler": "Euler",
    }
    assert recommended(said) == Recommended(
        width=128, height=96, steps=25, cfg_scale=4.5, sampler="Euler"
    )
    assert recommended({"modelspec.resolution": "768"}) == Recommended(width=768, height=768)


def test_metadata_beat_what_is_usual_for_a_kind() -> None:
    usual = Recommended(width=1024, height=1024, steps=4, cfg_scale=1.0)
    found = recommended({"modelspec.resolution": "768", "sdforge.steps": "6"}, usual)
    assert found == Recommended(width=768, height=768, steps=6, cfg_scale=1.0)


def test_nonsense_in_metadata_recommends_nothing() -> None:
    said = {
        "modelspec.resolution": "big",
        "sdforge.cfg_scale": "nan",
        "sdforge.steps": "-3",
        "sdforge.sampler": " ",
    }
    assert recommended(said) == Recommended()


@pytest.mark.parametrize("prefix", [UNET, ""])
def test_a_transformer_of_flux_is_recognised_alone_and_in_a_checkpoint(
    header: Callable[..., CheckpointHeader], prefix: str
) -> None:
    match = detect(header({f"{prefix}double_blocks.0.img_mod.lin.weight": (8, 8)}))
    assert (match.family, match.prediction) == ("flux", "flow")
