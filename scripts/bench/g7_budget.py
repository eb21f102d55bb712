"""G7: whether a GPU's memory stays below the cap that the budget promises, over a grid of caps.

SDXL's U-Net of random weights at several sizes; torch's allocator is capped too, so a plan that
promised too little is an out-of-memory error. Needs a GPU.
"""

from __future__ import annotations

import torch
from g4_streaming import GIB, inputs, unet
from timing import Row

from sdforge.core.device import probe
from sdforge.memory.component import Component
from sdforge.memory.device import open_device
from sdforge.memory.manager import MemoryManager

CAPS = (3, 4, 6, 8, 12)
LATENT_SIDES = (64, 96, 128)
# Traced for SDXL at 1024² with a pair in one batch, with the factor that the server begins with.
BYTES_PER_LATENT_PIXEL = 1.5 * 1.0 * GIB / 128**2


def measure() -> list[Row]:
    """Return the share of failed cells, and the worst peak ÷ cap."""
    if not torch.cuda.is_available():
        raise ModuleNotFoundError("this benchmark needs a CUDA device", name="cuda")
    device = open_device(probe())
    card = device.total_bytes
    made = Component(role="denoiser", name="sdxl", fingerprint="sdxl", module=unet())
    failed, worst, cells = 0, 0.0, []
    for cap in CAPS:
        device.total_bytes = cap * GIB
        torch.cuda.set_per_process_memory_fraction(cap * GIB / card)
        memory = MemoryManager(device)
        for side in LATENT_SIDES:
            values = inputs(memory.compute_device)
            values["sample"] = values["sample"][:, :, :side, :side].contiguous()
            torch.cuda.reset_peak_memory_stats()
            working = int(BYTES_PER_LATENT_PIXEL * side * side)
            try:
                with memory.lease(made, working_bytes=working) as module, torch.inference_mode():
                    for _ in range(3):
                        module(**values)
            except torch.OutOfMemoryError:
                failed += 1
            peak = torch.cuda.max_memory_allocated() / (cap * GIB)
            worst = max(worst, peak)
            cells.append((cap, side, peak))
            memory.evict_all()
    torch.cuda.set_per_process_memory_fraction(1.0)
    return [
        Row(id="G7", name="cells that ran out of memory", peer="none", ratio=float(failed),
            target=0.0, ours=failed, theirs=0, unit="cells", details={"cells": cells}),
        Row(id="G7", name="peak, worst cell", peer="the cap", ratio=worst, target=1.0, ours=worst,
            theirs=1.0, unit="caps"),
    ]  # fmt: skip
