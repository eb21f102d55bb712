"""The simulated device: exact to the byte, and as strict as a real one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sdforge.memory.simulated import NotResident, SimulatedDevice


def test_everything_made_while_computing_is_charged_until_its_last_reference_goes() -> None:
    device = SimulatedDevice(10_000)
    with device.computing():
        x = torch.ones(100)
        view = x[10:].view(9, 10)
        assert device.own_bytes() == 400
        del x
        assert device.own_bytes() == 400
        del view
    assert (device.own_bytes(), device.peak_own_bytes()) == (0, 400)
    device.reset_peak()
    assert device.peak_own_bytes() == 0


@pytest.mark.parametrize(("total", "fits"), [(1200, True), (1199, False)])
def test_the_limit_is_the_peak_to_the_byte(total: int, fits: bool) -> None:
    device = SimulatedDevice(total)
    with device.computing():
        x = torch.ones(100)
        if fits:
            x + 1 + 1
        else:
            with pytest.raises(torch.OutOfMemoryError, match="400 bytes, 800 of 1199"):
                x + 1 + 1


def test_computing_with_a_master_is_an_error_and_looking_at_it_is_none() -> None:
    device = SimulatedDevice(10_000)
    master = torch.ones(4, 4)
    device.manage([master])
    with device.computing():
        assert master.T.shape == (4, 4)
        with pytest.raises(NotResident, match="host master"):
            F.linear(torch.ones(1, 4), master)
    F.linear(torch.ones(1, 4), master)  # the host may


def test_copies_and_computing_have_clocks_of_their_own() -> None:
    device = SimulatedDevice(10**6, bytes_per_second=100, flops_per_second=1000)
    stream = device.copy_stream()
    target = device.allocate(200)
    with device.computing():
        done = stream.copy([(target, torch.zeros(200, dtype=torch.uint8))], stream.mark())
        F.linear(torch.ones(5, 10), torch.ones(10, 10))
        assert device.seconds == 1.0
        stream.wait(done)
    assert device.seconds == 2.0
    assert device.streamed_bytes == 200


def test_a_fault_happens_once_at_its_operation() -> None:
    device = SimulatedDevice(10**6)
    device.fail_at(2, KeyboardInterrupt())
    with device.computing():
        x = torch.ones(1)
        with pytest.raises(KeyboardInterrupt):
            x + 1
        assert (x + 1).item() == 2
    device.fail_at(1)
    device.fail_never()
    device.upload(x)
