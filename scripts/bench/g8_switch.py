"""G8: how fast weights that lie in main memory come to the device: the first part of a switch.

SDXL's U-Net of random weights, against its bytes ÷ the measured link. Needs a GPU.
"""

from __future__ import annotations

import time

import torch
from g4_streaming import GIB, link_bytes_per_second, unet
from timing import Row

from sdforge.core.device import probe
from sdforge.memory.component import Component
from sdforge.memory.device import open_device
from sdforge.memory.manager import MemoryManager

ROUNDS = 5


def measure() -> list[Row]:
    """Return the time of placing a U-Net, the best of some rounds."""
    if not torch.cuda.is_available():
        raise ModuleNotFoundError("this benchmark needs a CUDA device", name="cuda")
    memory = MemoryManager(open_device(probe()))
    memory.inference_bytes = GIB
    made = Component(role="denoiser", name="sdxl", fingerprint="sdxl", module=unet())
    bound = made.total_bytes / link_bytes_per_second()
    seconds = []
    for _ in range(ROUNDS):
        memory.evict_all()
        torch.cuda.synchronize()
        began = time.perf_counter()
        with memory.lease(made):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    best = min(seconds)
    return [
        Row(id="G8", name="SDXL U-Net, main memory → device", peer="its bytes ÷ the link",
            ratio=best / bound, target=1.15, ours=best, theirs=bound, details={"all_s": seconds})
    ]  # fmt: skip
