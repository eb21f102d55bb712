"""C15: how near streaming comes to what is possible, on the simulated device with its clock.

The real plan, ring and executor run; only time is simulated. Where bytes and arithmetic lie evenly
a step should take max(computing, streamed bytes ÷ link). A U-Net's do not: its ends compute on few
bytes, and copies run ahead by no more than the ring. There the peer is the recurrence of one copy
engine beside one compute engine (`interleave.step_seconds`) for the same plan.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from timing import Row
from torch import nn

from sdforge.memory.component import Component
from sdforge.memory.interleave import step_seconds
from sdforge.memory.manager import MemoryManager
from sdforge.memory.simulated import SimulatedDevice
from sdforge.memory.units import UnitTree

STEPS = 6
# Width of the matrices and rows they are applied to.
EVEN = [(128, 4)] * 64
UNEVEN = [(64, 48)] * 12 + [(256, 3)] * 40 + [(64, 48)] * 12
RESIDENT = (0.0, 0.25, 0.5, 0.75)
# Copying everything takes so many times the computing.
COPY_SHARES = (0.7, 1.0, 1.7)


class Chain(nn.Module):
    """Matrices, one after the other."""

    def __init__(self, layers: list[tuple[int, int]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for width, _ in layers)

    def forward(self, inputs: list[torch.Tensor]) -> None:
        for layer, x in zip(self.layers, inputs, strict=True):
            layer(x)


def seconds_per_step(
    layers: list[tuple[int, int]], share: float, copy_share: float
) -> tuple[float, float, float]:
    """Return a step's seconds in the long run, by the recurrence, and by the ideal formula."""
    inputs = [torch.randn(rows, width) for width, rows in layers]
    module = Chain(layers).requires_grad_(False)
    made = Component(role="denoiser", name="chain", fingerprint="chain", module=module)
    flops = sum(2 * rows * width * width for width, rows in layers)
    rate = made.total_bytes / copy_share
    device = SimulatedDevice(10**9, bytes_per_second=rate, flops_per_second=flops)
    memory = MemoryManager(device, unit_cap_bytes=300_000)
    ring = 3 * max(width * width * 4 for width, _ in layers)
    spent = 0.0
    # The second lease plans by the order that the first has seen.
    for _ in range(2):
        memory.evict_all()
        memory.inference_bytes = device.total_bytes - int(made.total_bytes * share) - ring
        with memory.lease(made) as network, torch.inference_mode():
            for _ in range(STEPS):
                began = device.seconds
                network(inputs)
                spent = device.seconds - began
    plan = memory.last_plan
    if plan is None:
        raise RuntimeError("nothing was planned")
    sizes = UnitTree(made, 300_000).sizes
    sizes = tuple(
        replace(size, flops=2 * rows * width * width)
        for size, (width, rows) in zip(sizes, layers, strict=True)
    )
    streamed = {size.index for size in sizes} - plan.resident[plan.active]
    recurrence = step_seconds(
        sizes, streamed, ring_bytes=plan.ring_bytes, bytes_per_second=rate, flops_per_second=flops
    )
    return spent, recurrence, max(1.0, plan.streamed_bytes / rate)


def measure() -> list[Row]:
    """Return the worst ratio for each share of resident bytes."""
    rows = []
    for name, layers, peer in (
        ("even", EVEN, "max(computing, bytes ÷ link), simulated"),
        ("U-Net-like", UNEVEN, "recurrence of two engines, simulated"),
    ):
        for share in RESIDENT:
            times = [seconds_per_step(layers, share, link) for link in COPY_SHARES]
            bounds = [ideal if layers is EVEN else known for _, known, ideal in times]
            ratios = [time[0] / bound for time, bound in zip(times, bounds, strict=True)]
            worst = max(range(len(ratios)), key=ratios.__getitem__)
            rows.append(
                Row(id="C15", name=f"streamed step, {name}, {share:.0%} resident", peer=peer,
                    ratio=ratios[worst], target=1.05, ours=times[worst][0], theirs=bounds[worst],
                    details={"spent_recurrence_ideal": times})
            )  # fmt: skip
    return rows


if __name__ == "__main__":
    for row in measure():
        print(f"{row.name:<50} {row.ratio:.3f}", row.details)
