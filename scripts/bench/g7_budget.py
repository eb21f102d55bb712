"""G7: whether a GPU's memory stays below the cap that the budget promises, over a grid of caps.

SDXL's U-Net of random weights at several sizes; torch's allocator is capped too, so a plan that
promised too little is an out-of-memory error. What a plan leaves unused of the weights' budget,
though they would have filled it, is shown beside. Needs a GPU (see `accelerator.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerator import GIB, SCALE, TINY, inputs, manager, open_accelerator, run_steps, unet
from timing import Row

from sdforge.memory.component import Component
from sdforge.memory.device import Device, is_out_of_memory
from sdforge.memory.estimate import activation_bytes

CAPS = (3, 4, 6, 8, 12)
LATENT_SIDES = (8, 16) if TINY else (64, 96, 128)
# With the factor that the server begins with.
FACTOR = 8.0 if TINY else 1.5


@contextmanager
def capped(device: Device, cap: int) -> Iterator[None]:
    """Make a device of `cap` bytes of this one, for torch's allocator too."""
    card, device.total_bytes = device.total_bytes, cap
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_per_process_memory_fraction(cap / card)
    try:
        yield
    finally:
        device.total_bytes = card
        if on_gpu:
            torch.cuda.set_per_process_memory_fraction(1.0)


def working_bytes(side: int) -> int:
    """Return the activations of a CFG forward, as the server estimates them."""
    traced = activation_bytes(
        "sdxl", kind="unet", width=32 if TINY else 320, latent_pixels=side * side, rows=2,
        tokens=77, itemsize=4 if TINY else 2,
    )  # fmt: skip
    return int(traced * FACTOR)


def measure() -> list[Row]:
    """Return the failed cells, the worst peak ÷ cap, and the least use of the weights' budget."""
    device = open_accelerator()
    made = Component(role="denoiser", name="sdxl", fingerprint="sdxl", module=unet())
    failed, worst, least, cells = 0, 0.0, 1.0, []
    for cap in (number * GIB // SCALE for number in CAPS):
        for side in LATENT_SIDES:
            with capped(device, cap):
                memory = manager(device)
                values = inputs(memory.compute_device, side)
                device.reset_peak()
                try:
                    with memory.lease(made, working_bytes=working_bytes(side)) as module:
                        run_steps(module, values, 1 if TINY else 3)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    failed += 1
                peak = device.peak_own_bytes() / cap
                plan = memory.last_plan
                if plan is not None:
                    wanted = min(plan.budget.weights_bytes, made.total_bytes)
                    least = min(least, plan.weights_bytes / max(wanted, 1))
                worst = max(worst, peak)
                cells.append((cap, side, peak))
                memory.evict_all()
    return [
        Row(id="G7", name="cells that ran out of memory", peer="none", ratio=float(failed),
            target=0.0, ours=failed, theirs=0, unit="cells", details={"cells": cells}),
        Row(id="G7", name="peak, worst cell", peer="the cap", ratio=worst, target=1.0, ours=worst,
            theirs=1.0, unit="caps"),
        Row(id="G7", name="weights' budget ÷ its use, worst cell", peer="all of it",
            ratio=1 / max(least, 1e-9), target=1.11, ours=1.0, theirs=least, unit="budgets"),
    ]  # fmt: skip


if __name__ == "__main__":
    for row in measure():
        print(f"{row.id} {row.name:<50} {row.ratio:.3f}")
