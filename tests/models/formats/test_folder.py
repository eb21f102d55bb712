"""Folders in the layout of diffusers, written by diffusers itself, as checkpoints."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdforge.core.errors import CorruptCheckpoint, MissingModel, UnsupportedCheckpoint
from sdforge.models.checkpoint import read_header
from sdforge.models.formats.diffusers_names import original_unet, original_vae
from sdforge.models.hashes import file_sha256
from sdforge.models.layout import TensorInfo
from sdforge.models.library import Library
from tests.tiny import make_checkpoint, tiny_server_parts

TEXT = "cond_stage_model.transformer."
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "safety_checker": [None, None],
}


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("folder") / "single.safetensors", metadata={})


@pytest.fixture(scope="module")
def source(single: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of the single file: the U-Net in shards, the VAE a variant."""
    folder = tmp_path_factory.mktemp("folder") / "tiny-v1.5"
    parts = tiny_server_parts(tmp_path_factory.mktemp("folder") / "data", single)
    networks = parts.provider.get("single").components
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _model(networks["denoiser"].module).save_pretrained(folder / "unet", max_shard_size="3MB")
        _model(networks["vae"].module).save_pretrained(folder / "vae", variant="fp16")
    text = {
        key.removeprefix(TEXT): tensor
        for key, tensor in load_file(single).items()
        if key.startswith(TEXT)
    }
    (folder / "text_encoder").mkdir()
    save_file(text, folder / "text_encoder" / "model.safetensors")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "epsilon"}')
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    return folder


def _model(module: Any) -> Any:
    """Return a model of diffusers with the weights of ours, which is built without its ways."""
    made = type(module).from_config(dict(module.config))
    made.load_state_dict(module.state_dict())
    return made


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / source.name))


def test_the_header_of_a_folder_is_that_of_the_single_file(single: Path, folder: Path) -> None:
    wanted, found = read_header(single), read_header(folder)
    shapes = {name: info.shape for name, info in found.tensors.items()}
    assert shapes == {name: info.shape for name, info in wanted.tensors.items()}
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1
    assert len(found.pieces) > 3


def test_a_folder_loads_and_draws_as_the_single_file(
    single: Path, folder: Path, tmp_path: Path
) -> None:
    parts = tiny_server_parts(tmp_path / "data", single)
    shutil.copytree(folder, parts.paths.checkpoints[0] / "sub" / folder.name)
    parts.library.refresh()

    info = parts.library.find("tiny-v1.5")

    assert (info.error, info.family, info.relative) == (None, "sd1", "sub/tiny-v1.5")
    assert info.name == "tiny-v1.5"
    assert info.model_name == "sub_tiny-v1.5"
    assert [one.name for one in parts.library.checkpoints()] == ["single", "tiny-v1.5"]
    hashed = parts.library.ensure_hash(info)
    assert hashed.title == f"sub/tiny-v1.5 [{hashed.short_hash}]"
    assert parts.library.find(str(hashed.short_hash)).path == info.path
    one, two = parts.provider.get("single"), parts.provider.get("tiny-v1.5")
    for role in ("denoiser", "vae", "text_encoder"):
        assert _weights(one.components[role]) == _weights(two.components[role]), role


def _weights(component: Any) -> dict[str, bytes]:
    return {
        name: master.stored.contiguous().view(torch.uint8).numpy().tobytes()
        for name, master in component.named_masters()
        if master.stored.numel()
    }


def test_networks_of_a_folder_serve_as_single_files(
    single: Path, folder: Path, tmp_path: Path
) -> None:
    parts = tiny_server_parts(tmp_path / "data", single)
    vaes = parts.paths.vaes[0]
    vaes.mkdir(parents=True)
    shutil.copy(next((folder / "vae").glob("*.safetensors")), vaes / "own.safetensors")
    own = parts.provider.get("single").components["vae"]
    other = parts.provider.get("single", vae="own").components["vae"]
    assert _weights(own) == _weights(other)

    tensors: dict[str, torch.Tensor] = {}
    for shard in (folder / "unet").glob("*.safetensors"):
        tensors |= load_file(shard)
    save_file(tensors, parts.paths.checkpoints[0] / "unet.safetensors")
    parts.library.refresh()
    info = parts.library.find("unet")
    assert (info.family, info.error) == ("sd1", None)


def test_a_changed_file_below_a_folder_is_noticed(folder: Path, tmp_path: Path) -> None:
    parts = tiny_server_parts(tmp_path / "data")
    place = Path(shutil.copytree(folder, parts.paths.checkpoints[0] / "x"))
    library: Library = parts.library
    assert library.find("x").error is None
    shutil.rmtree(place / "text_encoder")
    library.refresh()
    assert "holds no weights" in str(library.find("x", exact=True).error)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "a/b.safetensors", ".."])
def test_an_index_that_points_out_of_its_folder_is_refused(folder: Path, name: str) -> None:
    (index,) = (folder / "unet").glob("*.index.json")
    content = json.loads(index.read_text())
    content["weight_map"]["conv_in.weight"] = name
    index.write_text(json.dumps(content))
    with pytest.raises(CorruptCheckpoint, match="outside of it"):
        read_header(folder)


def test_missing_shards_and_indices_are_named(folder: Path) -> None:
    shard = min((folder / "unet").glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(MissingModel, match=f"lacks {shard.name}"):
        read_header(folder)
    (folder / "model_index.json").write_text("{")
    with pytest.raises(CorruptCheckpoint, match="no JSON"):
        read_header(folder)
    (folder / "model_index.json").write_text('{"vae": ["diffusers", "AutoencoderKL"]}')
    with pytest.raises(UnsupportedCheckpoint, match="no U-Net and no transformer"):
        read_header(folder)


@pytest.mark.parametrize("kind", ["sd1", "sdxl", "refiner"])
def test_names_of_full_size_networks_are_turned_back(kind: str) -> None:
    from diffusers import AutoencoderKL

    from tests.models.test_real_headers import _unet
    from tests.real_headers import REFINER, SDXL, UNet, ldm_unet

    nets = {"sd1": UNet(factors=(1, 2, 4, 4), depths=(1, 1, 1, 0, 1), context=1024, labels=0)}
    net = {**nets, "sdxl": SDXL, "refiner": REFINER}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, _ = _unet(net)
    found = original_unet(_infos(module))
    assert {name: info.shape for name, info in found.items()} == dict(ldm_unet(net))
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
    from sdforge.models.families.sd_keys import Sizes, vae_shapes

    turned = original_vae(_infos(vae))
    assert {name: info.shape for name, info in turned.items()} == dict(vae_shapes(Sizes()))


def _infos(module: Any) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo("F32", tuple(tensor.shape), 0, 0)
        for name, tensor in module.state_dict().items()
    }


def test_the_hash_of_a_folder_is_that_of_all_its_files(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "another name"
    shutil.copytree(folder, copy)
    before = file_sha256(folder)
    assert file_sha256(copy) == before
    config = next(copy.glob("unet/*.json"))
    config.write_text(config.read_text() + " ")
    assert file_sha256(copy) != before
    config.unlink()
    assert file_sha256(copy) != before
