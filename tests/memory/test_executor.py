"""Placing never changes results: every mode, room and fault, on random trees and real networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdforge.core.errors import OutOfMemory
from sdforge.memory.device import HostDevice
from sdforge.memory.manager import MemoryManager
from sdforge.memory.placement import Placement
from sdforge.memory.policy import MemoryMode
from sdforge.memory.simulated import NotResident, SimulatedDevice
from sdforge.memory.units import UnitTree
from tests.memory.networks import NETWORKS, Network, chain, component, tree


def manager(
    total: int, mode: MemoryMode = MemoryMode.NORMAL, *, cap: int = 40_000, **device: Any
) -> MemoryManager:
    made = MemoryManager(SimulatedDevice(total, **device), mode=mode, unit_cap_bytes=cap)
    made.inference_bytes = 0
    return made


def activations(network: Network) -> int:
    """Return what one run holds beside weights at most."""
    memory = manager(10**8)
    lease = memory.lease(network.component)
    with lease as module:
        network(module)
    memory.evict_all()
    return lease.activation_bytes


def hooks_of(network: Network) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in network.component.module.modules()
    )


def is_at_rest(network: Network, memory: MemoryManager) -> bool:
    """No hook, no device bytes, every tensor its master."""
    masters = network.component.masters
    return (
        hooks_of(network) == 0
        and memory.device.own_bytes() == 0
        and all(h.data_ptr() == m.stored.data_ptr() for m in masters for h in m.holders)
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_all_modes_give_the_same_bits_at_any_room(name: str) -> None:
    network = NETWORKS[name]()
    expected = network()
    total, working = network.component.total_bytes, activations(network)
    cut = UnitTree(network.component, 40_000)
    least = cut.root_bytes + max(unit.stored_bytes for unit in cut.units)
    for mode in set(MemoryMode) - {MemoryMode.HIGHVRAM}:  # which leaves no room on purpose
        for share in (1.2, 0.6, 0.0):
            memory = manager(int(total * share) + working + least, mode)
            lease = memory.lease(network.component, working_bytes=working)
            with lease as module:
                for _ in range(2):
                    assert torch.equal(network(module), expected), (mode, share)
            assert lease.plan is not None
            assert memory.device.peak_own_bytes() <= lease.plan.predicted_peak
            memory.evict_all()
            assert is_at_rest(network, memory)


def test_a_network_that_lies_on_the_device_whole_has_no_hooks() -> None:
    network = chain()
    memory = manager(10**7)
    with memory.lease(network.component) as module:
        assert hooks_of(network) == 0
        network(module)
    host = MemoryManager(HostDevice(10**9))
    with host.lease(network.component) as module:
        assert hooks_of(network) == 0


def test_forgetting_a_hook_is_noticed_by_the_simulated_device() -> None:
    network = chain()
    memory = manager(10**6)
    with memory.device.computing():
        assert isinstance(network().shape, torch.Size)  # nothing is managed yet
    with memory.lease(network.component):
        pass
    memory.evict_all()
    with memory.device.computing(), pytest.raises(NotResident, match="host master"):
        network()


def test_units_come_in_order_after_the_first_step_and_the_ring_never_waits_for_a_new_step() -> None:
    network = chain(layers=12)
    size = network.component.total_bytes
    memory = manager(size, cap=20_000)
    memory.inference_bytes = size // 2
    with memory.lease(network.component) as module:
        for _ in range(5):
            network(module)
    report = memory.report()
    streamed = 12 - len(memory.last_plan.resident["denoiser of test"])  # type: ignore[union-attr]
    assert memory.last_plan.placement is Placement.PARTIAL  # type: ignore[union-attr]
    assert 0 < report.streamed_misses <= streamed + 1  # the first step, and its end

    with memory.lease(network.component) as module:
        for _ in range(5):
            network(module)
    assert memory.report().streamed_misses <= report.streamed_misses + 1


def test_an_unforeseen_order_is_slower_and_right() -> None:
    network = chain(layers=6)
    memory = manager(60_000, MemoryMode.LOWVRAM, cap=20_000)
    x = torch.randn(2, 64)
    layers = network.component.module.layers
    orders = [(0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (2, 2, 0), (0, 1, 2, 3, 4, 5)]
    expected = []
    for order in orders:
        value = x
        for index in order:
            value = layers[index](value)
        expected.append(value)
    with memory.lease(network.component) as module, torch.inference_mode():
        for order, want in zip(orders, expected, strict=True):
            value = x
            for index in order:
                value = module.layers[index](value)
            assert torch.equal(value, want)


def test_tied_tensors_are_right_wherever_their_units_lie() -> None:
    network = chain(layers=6)
    layers = network.component.module.layers
    layers[4].weight = layers[1].weight
    tied = Network(component(network.component.module), network.run)
    expected = tied()
    assert tied.component.total_bytes == 5 * 64 * 64 * 4
    for total in (120_000, 60_000, 50_000):
        memory = manager(total, cap=20_000)
        with memory.lease(tied.component, working_bytes=2000) as module:
            for _ in range(3):
                assert torch.equal(tied(module), expected)
        memory.evict_all()
        assert is_at_rest(tied, memory)


shapes = st.recursive(
    st.just([]), lambda inner: st.lists(inner | st.integers(1, 8), max_size=3), max_leaves=8
)


@settings(max_examples=30, deadline=None)
@given(
    shape=shapes,
    share=st.floats(0, 1.2),
    mode=st.sampled_from(list(MemoryMode)),
    cap=st.integers(500, 5000),
)
def test_random_trees_compute_the_same_within_the_room(
    shape: list[Any], share: float, mode: MemoryMode, cap: int
) -> None:
    network = tree(shape)
    expected = network()
    room = 20_000
    memory = manager(int(network.component.total_bytes * share) + room, mode, cap=cap)
    try:
        with memory.lease(network.component, working_bytes=5000) as module:
            for _ in range(2):
                assert torch.equal(network(module), expected)
            assert memory.device.peak_own_bytes() <= memory.device.total_bytes
    except OutOfMemory:
        assert memory.last_plan is None or not memory.last_plan.fits
    memory.evict_all()
    assert is_at_rest(network, memory)


def operations_of(network: Network, total: int, working: int) -> int:
    memory = manager(total)
    with memory.lease(network.component, working_bytes=working) as module:
        network(module)
        network(module)
    return memory.device.operations  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["sdxl", "vae"])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt, RuntimeError])
def test_after_a_fault_at_any_operation_all_is_at_rest_and_the_next_run_works(
    name: str, error: type[BaseException]
) -> None:
    network = NETWORKS[name]()
    expected = network()
    working = activations(network)
    total = int(network.component.total_bytes * 0.5) + working
    count = operations_of(network, total, working)
    memory = manager(total)
    for operation in range(1, count, max(count // 7, 1)):
        memory.device.fail_at(operation, error("injected"))  # type: ignore[attr-defined]
        try:
            with memory.lease(network.component, working_bytes=working) as module:
                network(module)
                network(module)
        except (error, OutOfMemory):
            pass
        memory.device.fail_never()  # type: ignore[attr-defined]
        assert hooks_of(network) == 0
        with memory.lease(network.component, working_bytes=working) as module:
            assert torch.equal(network(module), expected)
        memory.evict_all()
        assert is_at_rest(network, memory), operation


def test_recovering_inside_a_lease_goes_on_with_the_same_ring() -> None:
    network = NETWORKS["sd1"]()
    expected = network()
    working = activations(network)
    memory = manager(int(network.component.total_bytes * 0.5) + working)
    lease = memory.lease(network.component, working_bytes=working)
    with lease as module:
        network(module)
        for operation in (3, 50, 200):
            memory.device.fail_at(operation)  # type: ignore[attr-defined]
            with pytest.raises(torch.OutOfMemoryError):
                network(module)
            lease.recover()
            assert torch.equal(network(module), expected)


def test_copies_hide_behind_computing_of_what_stays() -> None:
    network = chain(layers=16, width=64)
    flops = 2 * 2 * 64 * 64
    memory = manager(10**6, cap=20_000, bytes_per_second=16_384 / 2, flops_per_second=flops / 1.0)
    memory.inference_bytes = 10**6 - network.component.total_bytes // 2 - 3 * 16_384
    seconds = []
    with memory.lease(network.component) as module:
        for _ in range(6):
            before = memory.device.seconds  # type: ignore[attr-defined]
            network(module)
            seconds.append(memory.device.seconds - before)  # type: ignore[attr-defined]
    # Eight units of two seconds to copy, sixteen of one to compute.
    assert seconds[-1] <= 1.1 * 16


@settings(max_examples=6, deadline=None)
@given(shape=shapes, share=st.floats(0, 1), pinned=st.integers(0, 20_000))
def test_units_that_travel_from_locked_blocks_give_the_same(
    shape: list[Any], share: float, pinned: int
) -> None:
    network = tree(shape)
    expected = network()
    memory = manager(
        int(network.component.total_bytes * share) + 20_000, cap=1200, pinned_cap_bytes=pinned
    )
    with memory.lease(network.component, working_bytes=8000) as module:
        for _ in range(2):
            assert torch.equal(network(module), expected)
    assert memory.report().pinned_bytes <= pinned
    memory.release(network.component)
    assert memory.report().pinned_bytes == 0
