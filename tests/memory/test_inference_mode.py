"""Components can be placed from inside inference mode, where the pipeline runs networks."""

import pytest
import torch
from torch import nn

from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.memory.placement import Placement
from sdforge.memory.simulated import SimulatedDevice


def test_a_component_is_placed_and_taken_back_inside_inference_mode() -> None:
    module = nn.Linear(8, 8).requires_grad_(False)
    component = Component(role="vae", name="t", fingerprint="t", module=module)
    memory = MemoryManager(SimulatedDevice(10_000))
    memory.inference_bytes = 0
    with torch.inference_mode(), memory.lease(component) as placed:
        placed(torch.ones(1, 8))
    memory.evict_all()

    assert module(torch.ones(1, 8)).shape == (1, 8)


@pytest.mark.parametrize("pinned", [None, 0, 10_000])
def test_units_stream_through_a_lease_that_was_taken_inside_inference_mode(
    pinned: int | None,
) -> None:
    layers = [nn.Linear(8, 8).requires_grad_(False) for _ in range(4)]
    module = nn.ModuleList(layers)
    component = Component(role="vae", name="t", fingerprint="t", module=module)
    expected = torch.ones(1, 8)
    for layer in layers:
        expected = layer(expected)
    memory = MemoryManager(SimulatedDevice(1500, pinned_cap_bytes=pinned), unit_cap_bytes=400)
    memory.inference_bytes = 1500 - 700
    for _ in range(2):
        with torch.inference_mode(), memory.lease(component):
            x = torch.ones(1, 8)
            for layer in layers:
                x = layer(x)
            assert memory.last_plan is not None
            assert memory.last_plan.placement is not Placement.RESIDENT
            assert torch.equal(x, expected)
