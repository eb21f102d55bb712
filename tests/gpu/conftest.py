"""A real accelerator for the tests here, which `pytest -m gpu` runs.

`SDFORGE_REHEARSE_GPU=1` runs them on the simulated one, to see on any machine that they would run.
"""

import os
from collections.abc import Iterator

import pytest
import torch

from sdforge.core.device import probe
from sdforge.memory.device import Device, open_device
from sdforge.memory.simulated import SimulatedDevice

GIB = 2**30


@pytest.fixture
def accelerator() -> Iterator[Device]:
    if torch.cuda.is_available():
        device = open_device(probe())
        yield device
        torch.cuda.set_per_process_memory_fraction(1.0)
        device.empty_cache()
    elif os.environ.get("SDFORGE_REHEARSE_GPU"):
        yield SimulatedDevice(GIB, pinned_cap_bytes=GIB // 4)
    else:
        pytest.skip("no CUDA device; SDFORGE_REHEARSE_GPU=1 takes the simulated one")
