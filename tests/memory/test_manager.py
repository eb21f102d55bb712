"""Leases, eviction and recovery on the simulated device."""

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sdforge.core.errors import OutOfMemory, SdforgeError
from sdforge.core.settings import Settings
from sdforge.memory.arena import Arena, aligned_bytes
from sdforge.memory.component import Component
from sdforge.memory.device import HostDevice
from sdforge.memory.manager import MemoryManager
from sdforge.memory.policy import LARGE_PARAMETERS, MemoryMode
from sdforge.memory.simulated import SimulatedDevice

LAYER_BYTES = 4 * 100 * 100


def network(role: str = "denoiser", layers: int = 1) -> Component:
    """A stack of 100×100 matrices: 40,000 bytes each."""
    module = nn.Sequential(*(nn.Linear(100, 100, bias=False) for _ in range(layers)))
    return Component(role=role, name="test", fingerprint=role, module=module.requires_grad_(False))


# What runs here computes with some bytes of its own.
WORKING = 2000


def manager(total: int, mode: MemoryMode = MemoryMode.NORMAL) -> MemoryManager:
    """A manager whose weights may take `total`; components move as a whole."""
    made = MemoryManager(SimulatedDevice(total + WORKING), mode=mode)
    made.inference_bytes = WORKING
    return made


def test_a_leased_network_computes_what_it_computes_on_the_host() -> None:
    component = network(layers=3)
    x = torch.randn(2, 100)
    expected = component.module(x)
    memory = manager(10**6)

    with memory.lease(component) as module:
        assert memory.device.own_bytes() == 3 * LAYER_BYTES
        assert torch.equal(module(x), expected)


def test_components_stay_while_there_is_room_and_leave_least_recently_used_first() -> None:
    memory = manager(2 * LAYER_BYTES + 100)
    first, second, third = network("a"), network("b"), network("c")
    for component in (first, second, first, third):
        with memory.lease(component):
            pass

    resident = {row.role for row in memory.report().components if row.device_bytes}
    assert resident == {"a", "c"}
    assert memory.device.own_bytes() == 2 * LAYER_BYTES


def test_the_report_says_who_holds_what_now_and_at_most() -> None:
    memory = manager(10 * LAYER_BYTES)
    with memory.lease(network("a", layers=3)):
        pass
    memory.evict_all()
    with memory.lease(network("b")):
        pass

    report = memory.report()
    assert (report.own_bytes, report.peak_bytes) == (LAYER_BYTES, 3 * LAYER_BYTES)
    assert {row.role: row.device_bytes for row in report.components} == {"a": 0, "b": LAYER_BYTES}
    assert "b of test resident" in report.last_plan


def test_medvram_keeps_one_component_on_the_device() -> None:
    memory = manager(10 * LAYER_BYTES, MemoryMode.MEDVRAM)
    for role in ("a", "b", "c"):
        with memory.lease(network(role)):
            assert memory.device.own_bytes() == LAYER_BYTES


def test_a_component_leased_outside_is_not_evicted_inside() -> None:
    memory = manager(10 * LAYER_BYTES, MemoryMode.MEDVRAM)
    outer, inner = network("outer"), network("inner")
    x = torch.randn(1, 100)
    with memory.lease(outer) as module, memory.lease(inner):
        assert memory.device.own_bytes() == 2 * LAYER_BYTES
        module(x)


def test_inference_memory_keeps_weights_out() -> None:
    memory = manager(4 * 1024 * 1024 - WORKING)
    memory.configure(Settings(forge_inference_memory=4))
    assert memory.budget().weights_bytes == 0
    memory.configure(Settings(forge_inference_memory=1))
    assert memory.budget().weights_bytes == 3 * 1024 * 1024


def test_a_network_that_can_never_fit_is_a_clear_error_and_the_next_lease_works() -> None:
    memory = manager(2 * LAYER_BYTES)
    with pytest.raises(OutOfMemory, match="needs"), memory.lease(network(layers=3)):
        pass
    assert memory.device.own_bytes() == 0
    with memory.lease(network(layers=2)):
        assert memory.device.own_bytes() == 2 * LAYER_BYTES


def test_running_out_during_upload_evicts_the_rest_and_tries_again() -> None:
    memory = manager(3 * LAYER_BYTES)
    memory.inference_bytes = -LAYER_BYTES  # a budget that promises more than there is
    with memory.lease(network("a", layers=2)):
        pass
    with memory.lease(network("b", layers=2)):
        assert memory.device.own_bytes() == 2 * LAYER_BYTES


def test_an_exception_inside_a_lease_leaves_no_lease_behind() -> None:
    memory = manager(10 * LAYER_BYTES, MemoryMode.MEDVRAM)
    component = network()
    with pytest.raises(KeyboardInterrupt), memory.lease(component):
        raise KeyboardInterrupt
    memory.evict_all()
    assert memory.device.own_bytes() == 0


def test_release_gives_device_and_host_bytes_back_although_the_module_is_still_held() -> None:
    arena = Arena(aligned_bytes((100, 100), torch.float32))
    module = nn.Linear(100, 100, bias=False)
    module.weight = nn.Parameter(arena.allocate((100, 100), torch.float32), requires_grad=False)
    component = Component(role="vae", name="test", fingerprint="v", module=module, arenas=(arena,))
    memory = manager(10**6)
    with memory.lease(component):
        pass
    memory.release(component)
    gc.collect()

    assert memory.device.own_bytes() == 0
    assert module.weight.numel() == 0
    assert memory.report().components == ()
    with pytest.raises(SdforgeError, match="released"):
        _ = component.module


def test_tied_weights_are_uploaded_once_and_stay_tied() -> None:
    module = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False))
    module[1].weight = module[0].weight
    component = Component(role="te", name="t", fingerprint="t", module=module.requires_grad_(False))
    memory = manager(10**6)
    with memory.lease(component) as placed:
        assert memory.device.own_bytes() == LAYER_BYTES
        assert placed[0].weight.data_ptr() == placed[1].weight.data_ptr()


def test_the_host_device_uses_masters_in_place() -> None:
    component = network()
    before = component.module[0].weight.data_ptr()
    with MemoryManager(HostDevice(10**9)).lease(component) as module:
        assert module[0].weight.data_ptr() == before


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    order=st.lists(st.integers(0, 4), max_size=12),
    room=st.integers(4, 12),
    mode=st.sampled_from(list(MemoryMode)),
)
def test_device_bytes_never_exceed_the_budget(
    sizes: list[int], order: list[int], room: int, mode: MemoryMode
) -> None:
    memory = manager(room * LAYER_BYTES, mode)
    components = [network(f"role{i}", layers=size) for i, size in enumerate(sizes)]
    x = torch.ones(1, 100)
    expected = [component.module(x) for component in components]
    for index in order:
        component = components[index % len(components)]
        with memory.lease(component) as module:
            assert memory.device.own_bytes() <= memory.budget().weights_bytes
            assert torch.equal(module(x), expected[index % len(components)])
    memory.evict_all()
    assert memory.device.own_bytes() == 0
    assert all(torch.equal(c.module(x), e) for c, e in zip(components, expected, strict=True))


def fine_manager(total: int) -> MemoryManager:
    made = MemoryManager(SimulatedDevice(total, bytes_per_second=1000.0), unit_cap_bytes=50_000)
    made.inference_bytes = 0
    return made


def test_what_was_prefetched_is_there_without_waiting_again() -> None:
    component, other = network("next", layers=4), network("now")
    x = torch.randn(2, 100)
    expected = component.module(x)
    memory = fine_manager(10 * LAYER_BYTES)
    device = memory.device
    with memory.lease(other) as module:
        assert memory.prefetch(component) >= 4 * LAYER_BYTES
        began = device.seconds  # type: ignore[attr-defined]
        module(x)
        assert device.seconds == began  # type: ignore[attr-defined]
    uploaded = device.uploaded_bytes  # type: ignore[attr-defined]
    with memory.lease(component) as module:
        assert torch.equal(module(x), expected)
        assert device.uploaded_bytes == uploaded  # type: ignore[attr-defined]
        assert device.seconds >= began + 4 * LAYER_BYTES / 1000  # type: ignore[attr-defined]
    memory.evict_all()
    assert device.own_bytes() == 0


def test_prefetching_takes_only_free_room_and_drives_nothing_out() -> None:
    component, other = network("next", layers=4), network("now", layers=3)
    memory = fine_manager(4 * LAYER_BYTES)
    with memory.lease(other):
        assert memory.prefetch(component) == 0
        assert memory.device.own_bytes() == 3 * LAYER_BYTES
    assert MemoryManager(HostDevice(10**9)).prefetch(component) == 0


def test_a_fault_while_prefetching_leaves_nothing_behind() -> None:
    component = network("next", layers=4)
    memory = fine_manager(10 * LAYER_BYTES)
    memory.device.fail_at(3)  # type: ignore[attr-defined]
    assert memory.prefetch(component) == 0
    assert memory.device.own_bytes() == 0
    with memory.lease(component):
        assert memory.device.own_bytes() == 4 * LAYER_BYTES


def test_medvram_sdxl_means_large_models_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LARGE_PARAMETERS, "denoiser", 20_000)
    memory = manager(10 * LAYER_BYTES)
    memory.configure(Settings(forge_inference_memory=0, memory_mode="medvram-sdxl"))
    small, text = network("denoiser"), network("text_encoder")
    for component in (small, text):
        with memory.lease(component):
            pass
    assert memory.device.own_bytes() == 2 * LAYER_BYTES
    with memory.lease(network("denoiser", layers=2)):
        assert memory.device.own_bytes() == 2 * LAYER_BYTES
    with memory.lease(text):
        assert memory.device.own_bytes() == LAYER_BYTES


def test_a_role_that_computes_on_the_host_takes_no_device_memory() -> None:
    memory = MemoryManager(SimulatedDevice(10**6), cpu_roles=frozenset({"vae"}))
    component = network("vae")
    lease = memory.lease(component)
    with lease as module:
        module(torch.randn(1, 100))
    assert lease.device == torch.device("cpu")
    assert memory.device.peak_own_bytes() == 0


def test_nothing_stays_after_a_stage_when_told_so() -> None:
    memory = MemoryManager(SimulatedDevice(10**6), keeps=False)
    memory.inference_bytes = 0
    with memory.lease(network()):
        assert memory.device.own_bytes() == LAYER_BYTES
    assert memory.device.own_bytes() == 0
