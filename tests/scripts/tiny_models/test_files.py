"""Files of the catalogue must be readable by those who read such files."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file

from scripts.tiny_models import adapters, catalogue, text, transformers, unet
from scripts.tiny_models.files import random_tensors

XL_PREFIXES = {
    "lora_unet_": catalogue.UNET,
    "lora_te1_": catalogue.XL_TEXT,
}


def underscored(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {
        name.removesuffix(".weight").replace(".", "_"): shape
        for name, shape in shapes.items()
        if name.endswith(".weight")
    }


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    name = "Lora/sd1-lora.safetensors"
    first = catalogue.write(name, tmp_path / "a", seed=3).read_bytes()
    assert first == catalogue.write(name, tmp_path / "b", seed=3).read_bytes()
    assert first != catalogue.write(name, tmp_path / "c", seed=4).read_bytes()


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_gguf_gives_back_flux_within_its_precision(tmp_path: Path, kind: str) -> None:
    path = catalogue.write(f"diffusion_models/flux-dev-{kind}.gguf", tmp_path)
    wanted = random_tensors(transformers.flux())
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.architecture"].contents() == "flux"
    found = {str(tensor.name): tensor for tensor in reader.tensors}
    assert found.keys() == wanted.keys()
    name = "double_blocks.0.img_attn.qkv.weight"
    assert found[name].tensor_type.name == kind
    values = torch.from_numpy(gguf.quants.dequantize(found[name].data, found[name].tensor_type))
    error = (values.reshape(wanted[name].shape) - wanted[name]).norm() / wanted[name].norm()
    assert error < {"Q4_0": 0.15, "Q8_0": 0.01}[kind]
    assert found["img_in.bias"].tensor_type.name == "F32"


def test_scaled_fp8_gives_back_flux_with_its_scales(tmp_path: Path) -> None:
    stored = load_file(
        catalogue.write("diffusion_models/flux-dev-scaled-fp8.safetensors", tmp_path)
    )
    wanted = random_tensors(transformers.flux())
    name = "single_blocks.0.linear1"
    values = stored[f"{name}.weight"].float() * stored[f"{name}.scale_weight"]
    error = (values - wanted[f"{name}.weight"]).norm() / wanted[f"{name}.weight"].norm()
    assert error < 0.05
    assert "scaled_fp8" in stored


def test_a_pickle_opens_without_running_code(tmp_path: Path) -> None:
    path = catalogue.write("Stable-diffusion/sd1.ckpt", tmp_path)
    stored = torch.load(path, weights_only=True)
    assert {k: tuple(v.shape) for k, v in stored["state_dict"].items()} == catalogue.sd1()


def test_an_old_embedding_opens_without_running_code(tmp_path: Path) -> None:
    path = catalogue.write("embeddings/sd1-old.pt", tmp_path)
    stored = torch.load(path, weights_only=True)
    assert stored["string_to_param"]["*"].shape == (2, text.CLIP_L.width)


def test_fp8_files_hold_fp8(tmp_path: Path) -> None:
    path = catalogue.write("diffusion_models/flux-schnell-fp8.safetensors", tmp_path)
    with safe_open(path, "pt") as file:
        assert file.get_tensor("img_in.weight").dtype == torch.float8_e4m3fn
        assert "guidance_in.in_layer.weight" not in file.keys()  # noqa: SIM118


def test_a_diffusers_folder_opens_in_diffusers(tmp_path: Path) -> None:
    path = catalogue.write("Stable-diffusion/sd1-diffusers", tmp_path)
    network = UNet2DConditionModel.from_pretrained(path, subfolder="unet", local_files_only=True)
    assert network.config.cross_attention_dim == text.CLIP_L.width
    AutoencoderKL.from_pretrained(path, subfolder="vae", local_files_only=True)


def test_sdxl_loras_name_layers_that_sdxl_has() -> None:
    shapes = catalogue.sdxl()
    for name, shape in adapters.SDXL_LAYERS.items():
        if name.startswith("lora_te2_"):
            found = underscored(text.clip(text.CLIP_G))[name.removeprefix("lora_te2_")]
        else:
            lead, prefix = next(i for i in XL_PREFIXES.items() if name.startswith(i[0]))
            found = underscored(
                {k.removeprefix(prefix): v for k, v in shapes.items() if k.startswith(prefix)}
            )[name.removeprefix(lead)]
        assert found == shape


def test_flux_loras_name_layers_that_flux_has() -> None:
    shapes = underscored(transformers.flux())
    for name, shape in adapters.FLUX_LAYERS.items():
        assert shapes[name.removeprefix("lora_unet_")] == shape


def test_sd1_loras_name_layers_that_diffusers_unet_has(tmp_path: Path) -> None:
    path = catalogue.write("Stable-diffusion/sd1-diffusers", tmp_path)
    network = UNet2DConditionModel.from_pretrained(path, subfolder="unet", local_files_only=True)
    shapes = underscored({k: tuple(v.shape) for k, v in network.state_dict().items()})
    words = underscored(text.clip(text.CLIP_L))
    for name, shape in adapters.SD_LAYERS.items():
        if name.startswith("lora_te_"):
            assert words[name.removeprefix("lora_te_")] == shape
        else:
            assert shapes[name.removeprefix("lora_unet_")] == shape


@pytest.mark.parametrize("kind", adapters.KINDS)
def test_every_kind_of_lora_fits_its_layer(kind: str) -> None:
    rows, columns = 32, 32
    made = adapters.kohya({"layer": (rows, columns)}, kind)
    parts = {name.removeprefix("layer."): value for name, value in made.items()}
    change = {
        "lora": lambda: parts["lora_up.weight"] @ parts["lora_down.weight"],
        "dora": lambda: parts["lora_up.weight"] @ parts["lora_down.weight"] * parts["dora_scale"],
        "loha": lambda: (
            (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
        ),
        "lokr": lambda: torch.kron(parts["lokr_w1"], parts["lokr_w2_a"] @ parts["lokr_w2_b"]),
        "ia3": lambda: parts["weight"][:, None] * torch.ones(rows, columns),
        "glora": lambda: (
            torch.eye(rows) @ parts["a2.weight"] @ parts["a1.weight"]
            + parts["b2.weight"] @ parts["b1.weight"]
        ),
        "full": lambda: parts["diff"],
        "norm": lambda: parts["w_norm"][:, None].expand(rows, columns),
    }[kind]()
    assert change.shape == (rows, columns)


def test_inpainting_has_nine_input_channels() -> None:
    assert unet.unet(unet.SD1_INPAINT)["input_blocks.0.0.weight"][1] == 9
