"""Recovery from out-of-memory errors: rung by rung, bounded, and then a clear end."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch

from sdforge.core.errors import OutOfMemory
from sdforge.memory.ladder import MOST_RETRIES, Ladder, Rung, largest_size, vae_rungs, weight_rungs
from sdforge.memory.manager import MemoryManager
from sdforge.memory.placement import Placement, VaeOption
from sdforge.memory.simulated import SimulatedDevice
from sdforge.memory.vae_mode import SLICED, VaeMode
from tests.memory.networks import chain

LAYER = 64 * 64 * 4


def manager(total: int = 10**6) -> MemoryManager:
    made = MemoryManager(SimulatedDevice(total), unit_cap_bytes=20_000)
    made.inference_bytes = 0
    return made


def failing(times: int, error: Callable[[], BaseException]) -> Callable[[], str]:
    left = [times]

    def attempt() -> str:
        if left[0]:
            left[0] -= 1
            raise error()
        return "drawn"

    return attempt


def out_of_memory() -> BaseException:
    return torch.OutOfMemoryError("no")


@pytest.mark.parametrize(
    "error",
    [
        out_of_memory,
        MemoryError,
        lambda: RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:117] can't allocate memory"),
    ],
)
def test_every_kind_of_out_of_memory_error_is_tried_again(
    error: Callable[[], BaseException],
) -> None:
    ladder = Ladder(manager())
    rungs = [Rung("first", lambda: "done"), Rung("second", lambda: "done")]
    assert ladder.run("stage", failing(2, error), rungs) == "drawn"
    assert ladder.notes == ["stage: first", "stage: second"]


def test_other_errors_pass() -> None:
    ladder = Ladder(manager())
    with pytest.raises(RuntimeError, match="shapes"):
        ladder.run("stage", failing(1, lambda: RuntimeError("shapes")), [Rung("a", lambda: "b")])
    assert ladder.notes == []


def test_a_rung_that_changes_nothing_is_passed_over_and_each_is_used_once() -> None:
    ladder = Ladder(manager())
    used = []
    rungs = [
        Rung("nothing", lambda: None),
        Rung("once", lambda: used.append("once") or "done"),
        Rung("twice", lambda: used.append("twice") or "done", times=2),
    ]
    with pytest.raises(OutOfMemory, match="stage: out of memory on cpu .*512 × 512 should fit"):
        ladder.run("stage", failing(99, out_of_memory), rungs, lambda: "512 × 512 should fit")
    assert used == ["once", "twice", "twice"]


def test_the_ladder_ends() -> None:
    ladder, attempts = Ladder(manager()), [0]

    def attempt() -> None:
        attempts[0] += 1
        raise torch.OutOfMemoryError("no")

    with pytest.raises(OutOfMemory):
        ladder.run("stage", attempt, [Rung("ever", lambda: "done", times=99)])
    assert attempts[0] == MOST_RETRIES + 1


def test_nothing_of_the_failed_attempt_is_alive_when_the_next_begins() -> None:
    ladder = Ladder(manager())
    seen: list[weakref.ref[torch.Tensor]] = []

    def attempt() -> str:
        if seen:
            assert seen[0]() is None
            return "drawn"
        tensor = torch.zeros(10)
        seen.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("no")

    gc.disable()
    try:
        assert ladder.run("stage", attempt, [Rung("a", lambda: "b")]) == "drawn"
    finally:
        gc.enable()


def test_weights_leave_by_and_by_and_the_result_stays() -> None:
    network = chain(8)
    expected = network()
    memory = manager()
    other = chain(2, role="other")
    with memory.lease(other.component):
        pass
    lease = memory.lease(network.component)
    placements = []
    with lease as module:
        left = [4]

        def attempt() -> torch.Tensor:
            assert lease.plan is not None
            placements.append(lease.plan.placement)
            if left[0]:
                left[0] -= 1
                memory.device.fail_at(3)  # type: ignore[attr-defined]
                lease.recover()
            return network(module)

        result = memory.ladder.run("denoiser", attempt, weight_rungs(memory, lease))
    assert torch.equal(result, expected)
    assert placements == [
        Placement.RESIDENT,  # then unused memory was given back,
        Placement.RESIDENT,  # then the other component left,
        Placement.RESIDENT,
        Placement.PARTIAL,
        Placement.STREAM,
    ]
    assert len(memory.ladder.notes) == 4


def test_the_next_job_begins_without_what_this_one_learnt() -> None:
    from sdforge.core.settings import Settings

    network = chain(8)
    memory = manager()
    with memory.lease(network.component):
        pass
    for rung in weight_rungs(memory)[2:]:
        assert rung.apply()
    with memory.lease(network.component):
        assert memory.last_plan is not None
        assert memory.last_plan.placement is Placement.STREAM
    memory.configure(Settings(forge_inference_memory=0))
    with memory.lease(network.component):
        assert memory.last_plan.placement is Placement.RESIDENT
    assert memory.ladder.notes == []


def test_a_vae_goes_on_to_smaller_pieces() -> None:
    network = chain(2, role="vae")
    memory = manager()
    options = [VaeOption(mode=mode, working_bytes=1000) for mode in (SLICED, VaeMode.tiled(64))]
    modes: list[VaeMode] = []

    def attempt() -> None:
        lease = memory.lease(network.component, vae_options=options)
        with lease:
            modes.append(lease.vae_mode)
            if lease.vae_mode == SLICED:
                raise torch.OutOfMemoryError("no")

    memory.ladder.run("VAE", attempt, vae_rungs(memory, lambda: int(modes[-1] == SLICED)))
    assert modes == [SLICED, SLICED, VaeMode.tiled(64)]
    assert memory.ladder.notes == ["VAE: tidied", "VAE: smaller VAE pieces"]


@pytest.mark.parametrize(
    ("available", "expected"),
    [(400, (640, 640)), (10_000, (832, 832)), (10, (64, 64)), (0, None), (-5, None)],
)
def test_the_largest_size_fits_the_room_with_a_margin(
    available: int, expected: tuple[int, int] | None
) -> None:
    assert largest_size(1024, 1024, 1000, available) == expected


def test_the_largest_size_is_in_steps_and_of_the_same_shape() -> None:
    assert largest_size(1024, 512, 1000, 250) == (512, 256)
    assert largest_size(1024, 64, 1000, 250) is None
