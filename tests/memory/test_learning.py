"""Leases teach: a peak that was measured, memory that ran out."""

import pytest
import torch
from torch import nn

from sdforge.core.errors import OutOfMemory
from sdforge.memory.calibration import RAISE_AFTER_OOM, START_DENOISER, Calibration
from sdforge.memory.component import Component
from sdforge.memory.device import Device, HostDevice
from sdforge.memory.ladder import weight_rungs
from sdforge.memory.learning import Learning
from sdforge.memory.manager import MemoryManager
from sdforge.memory.simulated import SimulatedDevice

MIB = 2**20


class Widening(nn.Module):
    """Holds a megabyte of activations for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.scale * x).expand(MIB // 4, -1).contiguous().sum(0)


def manager(
    device: Device, name: str = "card", calibration: Calibration | None = None
) -> MemoryManager:
    learning = Learning(calibration or Calibration(), name, counts_peaks=device.counts_peaks)
    return MemoryManager(device, learning=learning)


@pytest.fixture
def component() -> Component:
    return Component(role="denoiser", name="m", fingerprint="f", module=Widening())


def run(memory: MemoryManager, component: Component, traced: int) -> None:
    key = memory.learning.key("sd1", "denoise")
    working = int(traced * memory.learning.factor(key))
    with memory.lease(component, working_bytes=working, learns=key) as module:
        module(torch.ones(4))


def factor(memory: MemoryManager) -> float:
    return memory.learning.factor(memory.learning.key("sd1", "denoise"))


def test_a_peak_above_the_estimate_is_believed_at_once(component: Component) -> None:
    memory = manager(SimulatedDevice(10**9))
    assert factor(memory) == START_DENOISER
    run(memory, component, traced=2 * MIB)
    assert 2.0 < factor(memory) < 2.3


def test_a_peak_below_the_estimate_lowers_it_slowly_and_never_below_one(
    component: Component,
) -> None:
    memory = manager(SimulatedDevice(10**9))
    seen = [factor(memory)]
    for _ in range(30):
        run(memory, component, traced=40 * MIB)
        seen.append(factor(memory))
    assert seen == sorted(seen, reverse=True)
    assert seen[1] > 1.3
    assert 1.0 <= seen[-1] < 1.1


def test_what_was_learnt_belongs_to_the_card_and_is_kept(component: Component) -> None:
    calibration = Calibration()
    run(
        manager(SimulatedDevice(10**9), "one", calibration),
        component,
        traced=MIB,
    )
    other = manager(SimulatedDevice(10**9), "other", calibration)
    assert factor(other) == START_DENOISER
    again = manager(SimulatedDevice(10**9), "one", calibration)
    assert factor(again) > 3


def test_a_device_that_counts_no_peaks_teaches_nothing(component: Component) -> None:
    memory = manager(HostDevice(10**9))
    run(memory, component, traced=MIB)
    assert factor(memory) == START_DENOISER


def test_running_out_raises_the_factor_once_for_a_job() -> None:
    memory = manager(SimulatedDevice(10**9))
    key = memory.learning.key("sd1", "denoise")

    def attempt() -> None:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(OutOfMemory):
        memory.ladder.run("denoiser", attempt, weight_rungs(memory), learns=key)
    assert factor(memory) == pytest.approx(START_DENOISER * RAISE_AFTER_OOM)
