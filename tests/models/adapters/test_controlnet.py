"""ControlNet files of both layouts become diffusers' network, held in a store of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, ControlNetUnionModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from safetensors.torch import load_file, save_file

from sdforge.core.errors import MissingModel, UnknownName, UnsupportedCheckpoint
from sdforge.core.paths import Paths
from sdforge.memory.device import HostDevice
from sdforge.memory.manager import MemoryManager
from sdforge.models.adapters.controlnet import ControlNets, check_fits, controlnet_recipe
from sdforge.models.adapters.controlnet_library import ControlNetLibrary
from sdforge.models.adapters.controlnet_shapes import match_controlnet
from sdforge.models.checkpoint import read_header
from tests.tiny import TINY, Sizes, sparse_checkpoint, tiny_checkpoint, tiny_server_parts
from tests.tiny_control import make_controlnet, original_shapes, tiny_config

GIB = 2**30


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_controlnet(tmp_path_factory.mktemp("control") / "canny.safetensors")


def _nets(folder: Path, compute: torch.dtype = torch.float32) -> ControlNets:
    library = ControlNetLibrary(Paths.under(folder))
    return ControlNets(library, MemoryManager(HostDevice(8 * GIB)), compute=compute)


def _inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "sample": torch.randn(2, 4, 8, 8, generator=generator),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(2, 77, 32, generator=generator),
        "controlnet_cond": torch.rand(1, 3, 64, 64, generator=generator),
    }


def test_the_original_layout_says_what_diffusers_own_network_says(
    original: Path, tmp_path: Path
) -> None:
    stripped = {key.removeprefix("control_model."): one for key, one in load_file(original).items()}
    expected = ControlNetModel(**tiny_config()).eval()
    expected.load_state_dict(convert_controlnet_checkpoint(stripped, {"layers_per_block": 2}))
    make_controlnet(tmp_path / "models" / "ControlNet" / "canny.safetensors")
    nets = _nets(tmp_path)
    module = nets.get(nets.library.find("canny")).module
    with torch.inference_mode():
        skips, middle = module(**_inputs(), return_dict=False)
        own_skips, own_middle = expected(**_inputs(), return_dict=False)
    for one, other in zip((*skips, middle), (*own_skips, own_middle), strict=True):
        assert (one - other).abs().max() < 1e-5
        assert one.abs().max() > 1e-3
    nets.unload()


def test_diffusers_layout_and_a_file_without_prefix_are_the_same_network(
    original: Path, tmp_path: Path
) -> None:
    recipe = controlnet_recipe(read_header(original))
    weights = load_file(original)
    folder = tmp_path / "models" / "ControlNet"
    folder.mkdir(parents=True)
    save_file(
        {name: weights[recipe.sources[name].key] for name in recipe.skeleton.example.state_dict()},
        folder / "theirs.safetensors",
    )
    make_controlnet(folder / "bare.safetensors", prefix="")
    make_controlnet(folder / "ours.safetensors")
    nets = _nets(tmp_path)
    infos = {name: nets.library.find(name) for name in ("theirs", "bare", "ours")}
    assert "diffusers" in infos["theirs"].reason
    assert "original" in infos["bare"].reason
    with torch.inference_mode():
        said = [
            nets.get(info, wanted=3).module(**_inputs(), return_dict=False)[1]
            for info in infos.values()
        ]
    assert torch.equal(said[0], said[2])
    assert torch.equal(said[1], said[2])
    nets.unload()


def test_half_precision_with_fp8_parts_is_loaded_as_the_demo_s_file_has_it(
    original: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "ControlNet"
    folder.mkdir(parents=True)
    weights = {
        name: one.to(
            torch.float8_e4m3fn if "middle_block.0.in_layers.2.weight" in name else torch.half
        )
        for name, one in load_file(original).items()
    }
    save_file(weights, folder / "demo-canny.safetensors", {"sdforge.preprocessor": "canny"})
    nets = _nets(tmp_path)
    info = nets.library.find("demo-canny")
    assert info.preprocessor == "canny"
    memory = MemoryManager(HostDevice(8 * GIB))
    component = nets.get(info)
    with memory.lease(component) as module, torch.inference_mode():
        middle = module(**_inputs(), return_dict=False)[1]
    assert component.has_decoders
    assert middle.isfinite().all()


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"adapter.body.0.weight": (1,)}, "T2I-Adapter in x.safetensors is incomplete"),
        ({"lora_controlnet": (1,)}, "no Control-LoRA that can be run"),
        ({"controlnet_x_embedder.weight": (1,)}, "transformer"),
        ({"control_model.task_embedding": (1,)}, "no ControlNet"),
        ({"model.diffusion_model.out.0.weight": (1,)}, "no ControlNet"),
    ],
)
def test_other_kinds_of_files_are_refused_by_their_names(
    tensors: dict[str, tuple[int, ...]], words: str, tmp_path: Path
) -> None:
    path = sparse_checkpoint(tmp_path / "x.safetensors", tensors)
    with pytest.raises((UnsupportedCheckpoint, MissingModel), match=words):
        match_controlnet(read_header(path))


def test_an_incomplete_file_names_what_is_missing(tmp_path: Path) -> None:
    shapes = original_shapes()
    del shapes["input_blocks.4.1.proj_in.weight"]
    path = sparse_checkpoint(tmp_path / "x.safetensors", shapes)
    with pytest.raises((MissingModel, UnsupportedCheckpoint), match="ControlNet in x"):
        controlnet_recipe(read_header(path))


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        (ControlNetModel, {}),
        (
            ControlNetUnionModel,
            {"num_control_type": 8, "conditioning_embedding_out_channels": (16, 32, 96, 256)},
        ),
    ],
)
def test_sdxl_s_layout_is_recognised_with_its_depths_and_heads(
    tmp_path: Path, kind: Any, own: dict[str, Any]
) -> None:
    with torch.device("meta"):
        network = kind(
            **own,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    shapes = {name: tuple(one.shape) for name, one in network.state_dict().items()}
    header = read_header(sparse_checkpoint(tmp_path / "xl.safetensors", shapes))
    assert match_controlnet(header).family == "sdxl"
    found = controlnet_recipe(header).skeleton.example.config
    checked = ("transformer_layers_per_block", "attention_head_dim", "cross_attention_dim")
    for key in (*checked, *own):
        assert found[key] == network.config[key], key


def test_one_made_for_another_kind_of_model_is_refused_with_the_difference(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parts = tiny_server_parts(tmp_path, tiny_checkpoint(tmp_path_factory))
    folder = parts.paths.controlnets[0]
    make_controlnet(folder / "fits.safetensors")
    make_controlnet(folder / "wide.safetensors", replace(TINY, text_width=64))
    nets = _nets(tmp_path)
    bundle = parts.provider.get("")
    check_fits(nets.get(nets.library.find("fits")), bundle)
    with pytest.raises(UnsupportedCheckpoint, match="width 64 instead of 32"):
        check_fits(nets.get(nets.library.find("wide")), bundle)
    parts.provider.unload()
    nets.unload()
    assert nets.report().host_bytes == 0


def test_names_are_matched_as_clients_write_them(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "ControlNet"
    small = Sizes(unet_width=16, unet_factors=(1, 1), text_width=16)
    make_controlnet(folder / "sub" / "control_v11p_sd15_canny.safetensors", small)
    make_controlnet(folder / "control_v11f1p_sd15_depth.safetensors", small)
    library = ControlNetLibrary(Paths.under(tmp_path))
    canny = next(info for info in library.controlnets() if "canny" in info.stem)
    assert canny.name.startswith("control_v11p_sd15_canny [")
    for name in (
        canny.name,
        "CONTROL_V11P_SD15_CANNY",
        "control_v11p_sd15_canny [d14c016b]",
        "control_v11p_sd15_canny.safetensors",
        "sub/control_v11p_sd15_canny",
        "canny",
    ):
        assert library.find(name) == canny, name
    with pytest.raises(UnknownName, match="control_v11p"):
        library.find("sd15")
    make_controlnet(folder / "later.safetensors", small)
    assert library.find("later").family == "sd1"
