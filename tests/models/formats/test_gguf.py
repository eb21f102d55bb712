"""GGUF: headers, weights that stay packed, and damaged files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sdforge.core.errors import CorruptCheckpoint, ModelError
from sdforge.core.settings import Settings
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.architectures import architecture
from sdforge.models.checkpoint import read_header
from sdforge.models.opening import open_model
from sdforge.models.sizes import model_sizes
from tests.gguf_files import UNET, write_gguf
from tests.tiny import Parts, make_checkpoint, tiny_server_parts


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("gguf") / "source.safetensors")


def served(folder: Path, gguf: Path) -> Parts:
    return tiny_server_parts(folder, gguf)


def test_a_header_tells_shapes_types_and_facts(source: Path, tmp_path: Path) -> None:
    meant = write_gguf(source, tmp_path / "x.gguf", "Q8_0", arch="sd1")

    header = read_header(tmp_path / "x.gguf")

    assert {name: info.shape for name, info in header.tensors.items()} == {
        name: numbers.shape for name, numbers in meant.items()
    }
    kinds = {info.dtype for info in header.tensors.values()}
    assert kinds == {"Q8_0", "F16", "F32"}
    assert header.metadata["general.architecture"] == "sd1"
    found = architecture(header.layout)
    assert found is not None
    assert found.family == "sd1"


def test_flattened_kernels_get_their_shape_back_and_bare_names_their_prefix(
    source: Path, tmp_path: Path
) -> None:
    path = tmp_path / "unet.gguf"
    meant = write_gguf(
        source, path, "Q4_0", keep=lambda name: name.startswith(UNET), strip=UNET, flattens=True
    )
    header = open_model(path)
    assert {name: info.shape for name, info in header.tensors.items()} == {
        name: numbers.shape for name, numbers in meant.items()
    }
    kernel = header.tensors[f"{UNET}input_blocks.1.0.in_layers.2.weight"]
    assert (kernel.dtype, len(kernel.shape)) == ("Q4_0", 4)


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q5_1"])
def test_weights_stay_packed_and_mean_what_the_gguf_package_says(
    source: Path, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "all.gguf"
    meant = write_gguf(source, path, kind, flattens=True)
    parts = served(tmp_path / "data", path)

    bundle = parts.provider.get("all")

    unet = bundle.components["denoiser"]
    packed = [master for master in unet.masters if master.decode is not None]
    assert len(packed) > 100
    assert all(master.stored.dtype == torch.uint8 for master in packed)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    master = unet.master(name)
    wanted = meant[f"{UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"]
    assert unet.read(master, master.stored).numpy().tobytes() == wanted.tobytes()
    kernel = unet.master("down_blocks.0.resnets.0.conv1.weight")
    wanted = meant[f"{UNET}input_blocks.1.0.in_layers.2.weight"]
    assert np.array_equal(unet.read(kernel, kernel.stored).numpy(), wanted)
    sizes = model_sizes(
        "sd1", open_model(path), dict.fromkeys(("denoiser", "vae", "text_encoder"), "float32")
    )
    (estimated,) = sizes.of("denoiser")
    assert estimated.total_bytes == pytest.approx(unet.total_bytes, rel=0.01)


def test_a_denoiser_takes_hardly_more_memory_than_in_the_file(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "all.gguf"
    write_gguf(source, path, "Q8_0", flattens=True)
    bundle = served(tmp_path / "data", path).provider.get("all")
    tensors = open_model(path).tensors
    in_file = sum(info.size_bytes for name, info in tensors.items() if name.startswith(UNET))
    unet = bundle.components["denoiser"]
    assert unet.total_bytes <= 1.1 * in_file
    # What is packed is mapped: only the rest lies in memory of its own.
    assert sum(arena.total_bytes for arena in unet.arenas) < 0.2 * in_file


def test_memory_modes_and_lora_act_on_packed_weights_as_on_others(
    source: Path, tmp_path: Path
) -> None:
    path = tmp_path / "all.gguf"
    meant = write_gguf(source, path, "Q8_0", flattens=True)
    save_file(
        {name: torch.from_numpy(t.copy()) for name, t in meant.items()}, tmp_path / "m.safetensors"
    )
    plain = tiny_server_parts(tmp_path / "plain", tmp_path / "m.safetensors")
    packed = served(tmp_path / "packed", path)
    streamed = tiny_server_parts(
        tmp_path / "streamed", path, device=SimulatedDevice(64 * 2**20), unit_cap_bytes=2**18
    )
    streamed.memory.configure(Settings(memory_mode="lowvram"))
    wanted = _guess(plain, "m")
    assert torch.equal(_guess(packed, "all"), wanted)
    assert torch.equal(_guess(streamed, "all"), wanted)
    changed = _guess(packed, "all", patched=True)
    assert not torch.equal(changed, wanted)
    assert torch.equal(changed, _guess(plain, "m", patched=True))


def _guess(parts: Parts, name: str, *, patched: bool = False) -> torch.Tensor:
    """Return what the denoiser makes of fixed latents; `patched` adds to one of its weights."""
    bundle = parts.provider.get(name)
    unet = bundle.components["denoiser"]
    weight = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    unet.set_patches({weight: lambda value: value + 0.5} if patched else {})
    draw = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 8, 8, generator=draw)
    text = torch.randn(1, 77, 32, generator=draw)
    device = parts.memory.device
    with torch.inference_mode(), parts.memory.lease(unet, working_bytes=2**20) as module:
        time = torch.tensor([500.0])
        found = module(device.upload(latents), device.upload(time), device.upload(text))
        return found.sample.cpu().clone()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:2000], "truncated|breaks off"),
        (lambda text: text[:-1000], "truncated"),
        (lambda text: text[:4] + struct.pack("<I", 9) + text[8:], "version 9"),
        (lambda text: text[:8] + b"\xff" * 8 + text[16:], "claims"),
        (lambda text: text[:16] + b"\xff" * 8 + text[24:], "claims"),
        (lambda text: text[:24] + b"\xff" * 8 + text[32:], "letters|breaks off"),
        (lambda text: b"<html>" + text[6:], "does not begin"),
        (lambda text: b"GGUF", "breaks off"),
    ],
)
def test_damaged_files_are_refused_with_the_reason(
    source: Path, tmp_path: Path, change: object, words: str
) -> None:
    path = tmp_path / "x.gguf"
    write_gguf(source, path, "Q8_0")
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(CorruptCheckpoint, match=words) as caught:
        read_header(path)
    assert caught.value.message.startswith("x.gguf ")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_change_gives_a_header_or_a_sentence(
    source: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.gguf"
    if not path.exists():
        write_gguf(source, path, "Q8_0", keep=lambda name: "text_model.encoder" in name)
    text = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 4000))
        text[place] = data.draw(st.integers(0, 255))
    changed = path.with_name("changed.gguf")
    changed.write_bytes(text)
    try:
        header = read_header(changed)
    except ModelError as error:
        assert error.message.startswith("changed.gguf ")
        return
    for info in header.tensors.values():
        assert 0 <= info.start <= info.end <= header.file_bytes - header.data_start
