"""Reading LoRA files, good and bad."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdforge.core.errors import CorruptCheckpoint, UnsupportedCheckpoint
from sdforge.models.adapters.kinds import Lora
from sdforge.models.adapters.lora_family import detect_family
from sdforge.models.adapters.lora_file import read_layout, read_lora
from sdforge.models.checkpoint import read_header
from tests.tiny_lora import adapter, write_lora

PAIRS = [
    ("lora_unet_a.lora_up.weight", "lora_unet_a.lora_down.weight", "lora_unet_a"),
    ("unet.a.lora_B.weight", "unet.a.lora_A.weight", "unet.a"),
    ("unet.a.lora_B.default.weight", "unet.a.lora_A.default.weight", "unet.a"),
    ("unet.a.lora.up.weight", "unet.a.lora.down.weight", "unet.a"),
    ("t.a.lora_linear_layer.up.weight", "t.a.lora_linear_layer.down.weight", "t.a"),
    ("a.processor.to_q_lora.up.weight", "a.processor.to_q_lora.down.weight", "a.processor.to_q"),
]


@pytest.mark.parametrize(("up", "down", "layer"), PAIRS)
def test_all_spellings_of_up_and_down_are_read(
    tmp_path: Path, up: str, down: str, layer: str
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({up: torch.ones(6, 2), down: torch.full((2, 5), 3.0)}, path)
    change = read_lora(path).layers[layer].weight
    assert isinstance(change, Lora)
    assert change.apply(torch.zeros(6, 5), 1.0).unique().tolist() == [6.0]


def test_factors_keep_the_type_of_the_file(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "x.safetensors", {"lora_unet_a": (8, 8)}, dtype=torch.bfloat16)
    change = read_lora(path).layers["lora_unet_a"].weight
    assert isinstance(change, Lora)
    assert change.up.dtype == torch.bfloat16
    assert change.apply(torch.zeros(8, 8), 1.0).dtype == torch.float32


def test_a_file_that_is_overwritten_while_in_use_changes_nothing(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "x.safetensors", {"lora_unet_a": (8, 8)})
    change = read_lora(path).layers["lora_unet_a"].weight
    assert change is not None
    before = change.apply(torch.zeros(8, 8), 1.0)
    path.write_bytes(b"")
    assert torch.equal(change.apply(torch.zeros(8, 8), 1.0), before)


def test_unknown_names_and_broken_layers_are_told(tmp_path: Path) -> None:
    more = {
        "lora_unet_b.lora_up.weight": torch.ones(4, 2),
        "what.is.this": torch.ones(1),
        "some.plain.weight": torch.ones(2, 2),
    }
    file = read_lora(write_lora(tmp_path / "x.safetensors", {"lora_unet_a": (8, 8)}, more=more))
    assert set(file.layers) == {"lora_unet_a"}
    assert set(file.unknown) == {"what.is.this", "some.plain.weight"}
    assert "'down' is missing" in file.broken["lora_unet_b"]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"lora_up.weight": torch.ones(4, 2), "lora_down.weight": torch.ones(3, 4)}, "multiply"),
        ({"dora_scale": torch.ones(4, 1)}, "magnitude"),
        ({"alpha": torch.tensor(1.0)}, "alone"),
        ({"oft_blocks": torch.ones(2, 3, 4)}, "OFT"),
        ({"hada_w1_a": torch.ones(2, 3)}, "missing"),
    ],
)
def test_parts_that_do_not_belong_together_are_broken(
    tmp_path: Path, parts: dict[str, torch.Tensor], said: str
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({f"lora_unet_a.{name}": tensor for name, tensor in parts.items()}, path)
    assert said in read_lora(path).broken["lora_unet_a"]


def test_a_pickled_lora_is_the_same(tmp_path: Path) -> None:
    parts = {
        "lora_unet_a.lora_up.weight": torch.randn(8, 2),
        "lora_unet_a.lora_down.weight": torch.randn(2, 8),
        "lora_unet_a.alpha": torch.tensor(1.0),
    }
    save_file(parts, tmp_path / "x.safetensors")
    torch.save(parts, tmp_path / "x.pt")
    plain, pickled = (read_lora(tmp_path / name) for name in ("x.safetensors", "x.pt"))
    assert plain.layers.keys() == pickled.layers.keys() == {"lora_unet_a"}
    assert str(plain.layers["lora_unet_a"]) == str(pickled.layers["lora_unet_a"])
    assert not pickled.broken


def test_files_that_are_no_lora_say_so(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"model.weight": torch.ones(2)}, path)
    with pytest.raises(UnsupportedCheckpoint, match="holds no LoRA"):
        read_lora(path)
    pickle = tmp_path / "x.pt"
    pickle.write_bytes(b"\x80\x02cposix\nsystem\n.")
    with pytest.raises(UnsupportedCheckpoint, match="run that"):
        read_lora(pickle)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CorruptCheckpoint, match="truncated"):
        read_lora(path)


def test_diffusers_metadata_gives_alpha_and_the_root_of_the_rank(tmp_path: Path) -> None:
    said = {"unet.lora_alpha": 8, "unet.use_rslora": True, "unet.alpha_pattern": {"b": 2}}
    path = tmp_path / "x.safetensors"
    names = ("a", "b")
    save_file(
        {f"unet.{name}.lora_{ab}.weight": torch.ones(4, 4) for name in names for ab in "AB"},
        path,
        metadata={"lora_adapter_metadata": json.dumps(said)},
    )
    layers = read_lora(path).layers
    scales = [
        kind.scale for name in names if isinstance(kind := layers[f"unet.{name}"].weight, Lora)
    ]
    assert scales == [4.0, 1.0]


def test_bundled_embeddings_are_no_layers(tmp_path: Path) -> None:
    more = {"bundle_emb.my.word.clip_l": torch.ones(2, 8)}
    path = write_lora(tmp_path / "x.safetensors", {"lora_unet_a": (8, 8)}, more=more)
    layout = read_layout(read_header(path))
    assert set(layout.layers) == {"lora_unet_a"}
    assert layout.bundled == {"my": {"word.clip_l": "bundle_emb.my.word.clip_l"}}


@pytest.mark.parametrize(
    ("layers", "metadata", "family"),
    [
        ({"lora_unet_x_attn2_to_k": (320, 768)}, {}, "sd1"),
        ({"lora_unet_x_attn2_to_k": (320, 1024)}, {}, "sd2"),
        ({"unet.x.attn2.to_v": (640, 2048)}, {}, "sdxl"),
        ({"lora_te2_text_model_x": (1280, 1280)}, {}, "sdxl"),
        ({"lora_unet_double_blocks_0_img_attn_qkv": (96, 32)}, {}, "flux"),
        ({"lora_unet_single_blocks_0_linear1": (7 * 32, 32)}, {}, "flux"),
        ({"lora_unet_single_blocks_0_linear1": (9 * 32, 32)}, {}, "flux2"),
        ({"diffusion_model.double_blocks.0.img_mlp.0": (6 * 32, 32)}, {}, "flux2"),
        ({"transformer.transformer_blocks.0.ff.linear_in": (6 * 32, 32)}, {}, "flux2"),
        ({"diffusion_model.layers.0.attention.to_q": (3840, 3840)}, {}, "zimage"),
        (
            {
                "lora_unet_context_refiner_0_attention_to_q": (8, 8),
                "lora_unet_layers_0_attention_qkv": (11520, 3840),
            },
            {},
            "zimage",
        ),
        ({"lora_unet_layers_0_attention_qkv": (3840, 2304)}, {}, "lumina2"),
        ({"transformer.transformer_blocks.0.img_mlp.net.2": (8, 8)}, {}, "qwen-image"),
        ({"lora_unet_transformer_blocks_0_img_mlp_net_2": (8, 8)}, {}, "qwen-image"),
        ({"lora_unet_x": (8, 8)}, {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"lora_unet_x": (8, 8)}, {"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
        ({"lora_unet_x": (8, 8)}, {}, None),
    ],
)
def test_the_family_is_told_with_its_sign(
    tmp_path: Path,
    layers: dict[str, tuple[int, ...]],
    metadata: dict[str, str],
    family: str | None,
) -> None:
    path = write_lora(tmp_path / "x.safetensors", layers, metadata=metadata)
    found = detect_family(read_header(path))
    assert (found and found.family) == family
    if found and not metadata:
        assert any(layer in found.reason for layer in layers)


def test_widths_outrank_what_metadata_says(tmp_path: Path) -> None:
    layers = {"lora_unet_x_attn2_to_k": (320, 768)}
    wrong = {"ss_base_model_version": "sdxl_base_v1-0"}
    path = write_lora(tmp_path / "x.safetensors", layers, metadata=wrong)
    found = detect_family(read_header(path))
    assert found is not None
    assert found.label == "Stable Diffusion 1.x"
    assert "width 768" in found.reason


def test_adapters_of_the_maker_differ_by_kind() -> None:
    assert set(adapter("lora", (8, 8))) != set(adapter("loha", (8, 8)))
