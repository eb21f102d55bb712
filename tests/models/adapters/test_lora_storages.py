"""Each kind of LoRA on a loaded model, in every storage: by its definition, and off to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from sdforge.core.settings import Settings
from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.models.adapters.lora import LoraPatcher, NetworkUse
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
# How far all of a layer may be off, as a share of its length: half a place of fp8, and what a 127th
# of the largest number of a row makes of normally spread ones.
STORAGES = {"Automatic": 0.0, "float8-e4m3fn": 2**-4, "int8": 0.01}
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


@pytest.fixture(scope="module", params=STORAGES)
def stored(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stored]:
    choice: str = request.param
    data = tmp_path_factory.mktemp("stored")
    parts = tiny_server_parts(data, tiny_checkpoint(tmp_path_factory))
    full = {
        name: master.stored.clone()
        for name, master in parts.provider.get("").components["denoiser"].named_masters()
    }
    parts.provider.unload()
    parts.provider.configure(Settings(forge_unet_storage_dtype=choice))
    unet = parts.provider.get("").components["denoiser"]
    assert unet.has_decoders == (choice != "Automatic")
    folder = parts.paths.data / "models" / "Lora"
    for kind in CONV_KINDS:
        write_lora(folder / f"{kind}.safetensors", _layers(kind), kind=kind, rank=RANK, alpha=ALPHA)
    yield Stored(parts, unet, full, LoraPatcher(parts.library.loras), STORAGES[choice])
    parts.provider.unload()


def _layers(kind: str) -> dict[str, Shape]:
    """Return kohya's names of the layers that a kind can be made for, with their shapes."""
    return {
        PREFIX + layer.replace(".", "_"): shape
        for layer, shape in LAYERS.items()
        if "tucker" not in kind or len(shape) == 4
    }


def _parts_of(path: Path, layer: str) -> Tensors:
    lead = PREFIX + layer.replace(".", "_") + "."
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
