"""Each kind of LoRA on a loaded model, in every storage: by its definition, and off to the bit.

fp8 and int8 are made by the setting from a file of full weights; GGUF's and NF4's blocks are the
file's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from sdforge.core.settings import Settings
from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.models.adapters.lora import LoraPatcher, NetworkUse
from tests.four_bit_files import four_bit
from tests.gguf_files import UNET, write_gguf
from tests.models.adapters.test_kinds import DEFINITIONS
from tests.tiny import Parts, tiny_checkpoint, tiny_server_parts
from tests.tiny_lora import CONV_KINDS, Shape, Tensors, write_lora

MULTIPLIER = 0.5
ALPHA, RANK = 2.0, 4
PREFIX = "lora_unet_"
ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0"
LAYERS = {
    ATTENTION: (64, 64),
    "down_blocks.1.attentions.0.proj_in": (64, 64, 1, 1),
    "down_blocks.1.resnets.1.conv1": (64, 64, 3, 3),
}
NORMS = {
    "down_blocks.1.attentions.0.norm": 64,
    "down_blocks.1.attentions.0.transformer_blocks.0.norm1": 64,
}
# How far all of a layer may be off, as a share of its length: half a place of fp8; what a 127th of
# the largest number of a row, or of 32 numbers, makes of normally spread ones; what an eighth of
# the largest of 32 makes, and the 16 numbers of NF4 of 64.
BY_SETTING = {"Automatic": 0.0, "float8-e4m3fn": 2**-4, "int8": 0.01}
BY_FILE = {"Q8_0": 0.01, "Q4_0": 0.11, "nf4": 0.11}
STORAGES = BY_SETTING | BY_FILE
# NF4 is unpacked once, while the file is read: what lies in memory is what it means.
UNPACKED_IN_MEMORY = ("Automatic", "nf4")
ON_OFF = 100


@dataclass(frozen=True)
class Stored:
    """The tiny checkpoint in one storage type, and its weights as the file has them."""

    parts: Parts
    unet: Component
    full: dict[str, torch.Tensor]
    patcher: LoraPatcher
    tolerance: float

    def apply(self, *uses: NetworkUse) -> tuple[str, ...]:
        return self.patcher.apply(self.parts.provider.get(""), uses).notes

    def read(self, layer: str) -> torch.Tensor:
        """Return a weight as the network computes with it."""
        master = self.unet.master(f"{layer}.weight")
        return self.unet.read(master, master.stored)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The U-Net's weights as the file of full ones has them."""
    parts = tiny_server_parts(tmp_path_factory.mktemp("full"), tiny_checkpoint(tmp_path_factory))
    unet = parts.provider.get("").components["denoiser"]
    weights = {name: master.stored.clone() for name, master in unet.named_masters()}
    parts.provider.unload()
    return weights


@pytest.fixture(
    scope="module",
    params=[
        # Blocks of 4 bits go the way of those of 8.
        pytest.param(name, marks=pytest.mark.slow if name == "Q4_0" else ())
        for name in STORAGES
    ],
)
def stored(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    full: dict[str, torch.Tensor],
) -> Iterator[Stored]:
    choice: str = request.param
    data = tmp_path_factory.mktemp("stored")
    file = tiny_checkpoint(tmp_path_factory)
    if choice in BY_FILE:
        file = _packed(file, data, choice)
    parts = tiny_server_parts(data, file)
    if choice in BY_SETTING:
        parts.provider.configure(Settings(forge_unet_storage_dtype=choice))
    unet = parts.provider.get("").components["denoiser"]
    for layer in LAYERS:
        is_packed = unet.master(f"{layer}.weight").decode is not None
        assert is_packed == (choice not in UNPACKED_IN_MEMORY), layer
    folder = parts.paths.data / "models" / "Lora"
    for kind in CONV_KINDS:
        write_lora(folder / f"{kind}.safetensors", _layers(kind), kind=kind, rank=RANK, alpha=ALPHA)
    yield Stored(parts, unet, full, LoraPatcher(parts.library.loras), STORAGES[choice])
    parts.provider.unload()


def _packed(source: Path, folder: Path, kind: str) -> Path:
    """Write the checkpoint with the U-Net's linear and convolution layers in blocks."""
    if kind != "nf4":
        path = folder / f"{kind}.gguf"
        write_gguf(source, path, kind, flattens=True)
        return path
    path = folder / f"{kind}.safetensors"
    tensors: Tensors = {}
    for name, one in load_file(source).items():
        is_packed = name.startswith(UNET) and one.ndim > 1
        tensors |= four_bit(name, one).tensors if is_packed else {name: one}
    save_file(tensors, path)
    return path


def _layers(kind: str) -> dict[str, Shape]:
    """Return kohya's names of the layers that a kind can be made for, with their shapes."""
    return {
        _kohya(layer): shape
        for layer, shape in LAYERS.items()
        if "tucker" not in kind or len(shape) == 4
    }


def _kohya(layer: str) -> str:
    return PREFIX + layer.replace(".", "_")


def _parts_of(path: Path, layer: str) -> Tensors:
    lead = _kohya(layer) + "."
    return {
        name.removeprefix(lead): tensor
        for name, tensor in load_file(path).items()
        if name.startswith(lead)
    }


@pytest.mark.parametrize("kind", CONV_KINDS)
def test_a_kind_gives_what_merging_by_its_definition_gives(stored: Stored, kind: str) -> None:
    """1e-4 from the definition on the weights as stored, and storage's own error from fp32's."""
    path = stored.parts.paths.data / "models" / "Lora" / f"{kind}.safetensors"
    plain = {layer: stored.read(layer).clone() for layer in LAYERS}
    assert stored.apply(NetworkUse(name=kind, te=MULTIPLIER)) == ()
    changed = [layer for layer in LAYERS if _parts_of(path, layer)]
    for layer in changed:
        tensors, got = _parts_of(path, layer), stored.read(layer)
        by_definition = DEFINITIONS[kind](tensors, plain[layer], MULTIPLIER)
        assert torch.allclose(got, by_definition, atol=1e-4), layer
        assert not torch.allclose(got, plain[layer], rtol=0, atol=1e-3), layer
        in_full = DEFINITIONS[kind](tensors, stored.full[f"{layer}.weight"], MULTIPLIER)
        off_by = float((got - in_full).norm() / in_full.norm())
        assert off_by <= max(stored.tolerance, 1e-4), layer
    assert len(changed) == len(_layers(kind))
    stored.apply()
    for layer in LAYERS:
        assert torch.equal(stored.read(layer), plain[layer])


def test_norms_and_biases_change_by_their_definition(stored: Stored) -> None:
    """LyCORIS' whole differences of norms, and of the bias of a layer whose weight is packed."""
    draw = torch.Generator().manual_seed(5)
    tensors = {f"{_kohya(ATTENTION)}.diff_b": torch.randn(64, generator=draw)}
    wanted = {f"{ATTENTION}.bias": tensors[f"{_kohya(ATTENTION)}.diff_b"]}
    for norm, width in NORMS.items():
        for part, parameter in (("w_norm", "weight"), ("b_norm", "bias")):
            change = torch.randn(width, generator=draw)
            tensors[f"{_kohya(norm)}.{part}"] = wanted[f"{norm}.{parameter}"] = change
    folder = stored.parts.paths.data / "models" / "Lora"
    save_file(tensors, folder / "norms.safetensors")
    assert stored.apply(NetworkUse(name="norms", te=MULTIPLIER)) == ()
    for name, change in wanted.items():
        master = stored.unet.master(name)
        got = stored.unet.read(master, master.stored)
        # GGUF files, as real ones, hold norms and biases in full.
        assert torch.allclose(got, stored.full[name] + MULTIPLIER * change, atol=1e-4), name
    stored.apply()


def test_on_and_off_a_hundred_times_leaves_every_bit_and_no_memory(stored: Stored) -> None:
    """All kinds in turn, so that none leaves anything behind for the next."""
    memory: MemoryManager = stored.parts.memory
    before = {layer: stored.unet.master(f"{layer}.weight").stored.clone() for layer in LAYERS}
    shown = stored.unet.module.get_submodule(ATTENTION)
    sizes = []
    for number in range(ON_OFF):
        stored.apply(NetworkUse(name=CONV_KINDS[number % len(CONV_KINDS)]))
        with memory.lease(stored.unet):
            pass
        stored.apply()
        with memory.lease(stored.unet):
            pass
        sizes.append(psutil.Process().memory_info().rss)
    for layer, weight in before.items():
        assert torch.equal(_bits(stored.unet.master(f"{layer}.weight").stored), _bits(weight))
    assert shown.weight.data_ptr() == stored.unet.master(f"{ATTENTION}.weight").stored.data_ptr()
    # A copy of the three layers that stayed each time would be 18 MB in these turns.
    assert sizes[-1] - sizes[len(CONV_KINDS)] < 8e6
    assert stored.patcher.held_bytes == 0


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)
