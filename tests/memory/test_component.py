"""Packed and patched weights: right wherever they lie, gone without a trace."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn

from sdforge.core.errors import SdforgeError
from sdforge.memory.component import Component, PatchAmong
from sdforge.memory.device import Device, HostDevice
from sdforge.memory.manager import MemoryManager
from sdforge.memory.policy import MemoryMode
from sdforge.memory.simulated import SimulatedDevice
from sdforge.memory.units import UnitTree
from tests.memory.networks import Network, chain, component

LAYER = 64 * 64 * 4


def decode(stored: torch.Tensor) -> torch.Tensor:
    return stored.to(torch.float32)


def packed_chain(layers: int = 6) -> tuple[Network, Network]:
    """A chain in fp8, and the same numbers in plain fp32."""
    packed = chain(layers)
    for layer in packed.component.module.layers:
        layer.weight = nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    plain = chain(layers)
    for layer, source in zip(
        plain.component.module.layers, packed.component.module.layers, strict=True
    ):
        layer.weight = nn.Parameter(source.weight.float(), requires_grad=False)
    names = [f"layers.{index}.weight" for index in range(layers)]
    return (
        Network(
            component(packed.component.module, decoders=dict.fromkeys(names, decode)), packed.run
        ),
        Network(component(plain.component.module), plain.run),
    )


def managers() -> dict[str, Callable[[], MemoryManager]]:
    def simulated(total: int, mode: MemoryMode) -> MemoryManager:
        made = MemoryManager(SimulatedDevice(total), mode=mode, unit_cap_bytes=20_000)
        made.inference_bytes = 0
        return made

    return {
        "host": lambda: MemoryManager(HostDevice(10**9), unit_cap_bytes=20_000),
        "resident": lambda: simulated(10**6, MemoryMode.NORMAL),
        "partial": lambda: simulated(5 * LAYER, MemoryMode.NORMAL),
        "stream": lambda: simulated(10**6, MemoryMode.LOWVRAM),
    }


MANAGERS = managers()


def own_bytes(device: Device) -> int:
    gc.collect()
    return device.own_bytes()


@pytest.mark.parametrize("name", MANAGERS)
def test_packed_weights_compute_as_their_decoded_values_and_lie_packed(name: str) -> None:
    packed, plain = packed_chain()
    memory = MANAGERS[name]()
    with memory.lease(packed.component, working_bytes=2000) as module:
        for _ in range(2):
            assert torch.equal(packed(module), plain())
        assert {layer.weight.dtype for layer in module.layers} == {torch.float8_e4m3fn}
        if name == "resident":
            held = memory.report().held_weights_bytes
            assert held == packed.component.total_bytes == 6 * 64 * 64
        elif name == "host":
            assert own_bytes(memory.device) == 0
    assert not any(layer._forward_pre_hooks for layer in packed.component.module.layers)


@pytest.mark.parametrize("name", MANAGERS)
def test_patches_are_merged_in_fp32_and_leave_no_trace(name: str) -> None:
    network = chain(6)
    before = network()
    memory = MANAGERS[name]()
    up, down = torch.randn(64, 2), torch.randn(2, 64)
    asked: list[torch.dtype] = []

    def patch(weight: torch.Tensor) -> torch.Tensor:
        asked.append(weight.dtype)
        return weight + up @ down

    expected = chain(6)
    layers = expected.component.module.layers
    layers[2].weight = nn.Parameter(layers[2].weight + up @ down, requires_grad=False)
    masters = [master.stored.clone() for master in network.component.masters]

    def run() -> torch.Tensor:
        with memory.lease(network.component, working_bytes=40_000) as module:
            network(module)
            return network(module)

    assert torch.equal(run(), before)
    memory.evict_all()
    flat = own_bytes(memory.device)
    network.component.set_patches({"layers.2.weight": patch})
    assert torch.equal(run(), expected())
    assert set(asked) == {torch.float32}
    times = len(asked)
    run()
    # What lies on the device whole is merged once, what streams whenever it comes.
    assert (len(asked) == times) == (name in ("host", "resident"))
    network.component.set_patches({})
    assert torch.equal(run(), before)
    memory.evict_all()
    assert own_bytes(memory.device) == flat
    assert memory.report().held_weights_bytes == 0
    for master, stored in zip(network.component.masters, masters, strict=True):
        assert torch.equal(master.stored, stored)
        assert all(holder.data_ptr() == master.stored.data_ptr() for holder in master.holders)


@pytest.mark.parametrize("name", MANAGERS)
def test_packed_weights_can_be_patched_too(name: str) -> None:
    packed, plain = packed_chain()
    memory = MANAGERS[name]()
    packed.component.set_patches({"layers.0.weight": lambda weight: weight * 2})
    plain.component.module.layers[0].weight.data *= 2
    with memory.lease(packed.component, working_bytes=2000) as module:
        assert torch.equal(packed(module), plain())


class Beside(PatchAmong):
    """Adds another layer's own weight, whatever patch that has."""

    beside = ("layers.1.weight",)

    def __call__(
        self, weight: torch.Tensor, others: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        assert others is not None
        return weight + others["layers.1.weight"]


@pytest.mark.parametrize("name", ["host", "resident", "stream"])
def test_a_patch_may_look_at_other_weights_wherever_they_lie(name: str) -> None:
    """Packed ones, too; the plan counts what they take while they are looked at."""
    (packed, plain), memory = packed_chain(), MANAGERS[name]()
    tree = UnitTree(packed.component, 1)
    alone = tree.cast_bytes(packed.component)
    packed.component.set_patches({"layers.0.weight": Beside(), "layers.1.weight": torch.neg})
    assert tree.cast_bytes(packed.component) > alone
    first, second = plain.component.module.layers[:2]
    first.weight.data += second.weight.data
    second.weight.data.neg_()
    with memory.lease(packed.component, working_bytes=2000) as module:
        assert torch.equal(packed(module), plain())


def test_only_tensors_whose_patch_changed_are_uploaded_again() -> None:
    network = chain(6)
    memory = MANAGERS["resident"]()
    with memory.lease(network.component):
        pass
    before = memory.device.uploaded_bytes  # type: ignore[attr-defined]
    network.component.set_patches({"layers.0.weight": torch.neg, "layers.1.weight": torch.neg})
    with memory.lease(network.component):
        pass
    assert memory.device.uploaded_bytes - before == 2 * LAYER  # type: ignore[attr-defined]
    network.component.set_patches({"layers.0.weight": torch.neg})
    with memory.lease(network.component):
        pass
    assert memory.device.uploaded_bytes - before == 3 * LAYER  # type: ignore[attr-defined]


def test_the_patch_key_changes_when_patches_do() -> None:
    made = chain(2).component
    keys = [made.patch_key]
    for patches in ({"layers.0.weight": torch.neg}, {"layers.0.weight": torch.abs}, {}):
        made.set_patches(patches)
        keys.append(made.patch_key)
    assert keys[0] == keys[3] == ""
    assert len(set(keys)) == 3
    made.set_patches({"layers.0.weight": lambda w: w}, key="cat:0.8")
    first = made.patch_of(made.master("layers.0.weight"))
    made.set_patches({"layers.0.weight": lambda w: w}, key="cat:0.8")
    assert made.patch_key == "cat:0.8"
    assert made.patch_of(made.master("layers.0.weight")) is first


def test_names_that_are_not_there_are_errors() -> None:
    made = chain(2).component
    with pytest.raises(SdforgeError, match="no tensor 'nose'"):
        made.set_patches({"nose": torch.neg})
    with pytest.raises(SdforgeError, match="no tensor 'nose'"):
        Component(
            role="a", name="b", fingerprint="c", module=made.module, decoders={"nose": torch.neg}
        )


def test_patched_copies_on_the_host_are_given_back_with_the_component() -> None:
    network = chain(4)
    memory = MANAGERS["host"]()
    network.component.set_patches({"layers.0.weight": torch.neg})
    with memory.lease(network.component):
        assert memory.report().held_weights_bytes == LAYER
    memory.release(network.component)
    assert memory.report().held_weights_bytes == 0
    assert network.component.is_released
