"""Components can be placed from inside inference mode, where the pipeline runs networks."""

import torch
from torch import nn

from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
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
