"""G4–G6: SDXL's U-Net on a GPU whose weights may take only part of it; random weights, 1024².

G4: lowvram with the weights capped at 1 GB, against diffusers' sequential and group offloading.
G5: a quarter, half and three quarters resident, against max(computing, streamed bytes ÷ link),
both measured here. G6: the U-Net leaves and comes back for each picture, against staying and
against diffusers' model offloading, which copies it back each time.
Needs a GPU (see `accelerator.py` for rehearsals) and diffusers; the host should have 16 GB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerator import (
    GIB,
    SCALE,
    TINY,
    inputs,
    link_bytes_per_second,
    manager,
    open_accelerator,
    run_steps,
    seconds_of,
    step_seconds,
    unet,
)
from timing import Row

from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.memory.policy import MemoryMode

WORKING_BYTES = 2 * GIB // SCALE
PICTURE_STEPS = 2 if TINY else 20
# Beside all weights, so that nothing has to leave.
ROOM = GIB // SCALE


def leased_seconds(
    memory: MemoryManager, component: Component, weights_bytes: int, values: dict[str, Any]
) -> tuple[float, int]:
    """Return a step's seconds with so many bytes for weights, and the bytes that stream in it."""
    memory.inference_bytes = memory.device.total_bytes - weights_bytes
    spent = 0.0
    # The first lease sees the order, the second plans by it.
    for _ in range(2):
        memory.evict_all()
        with memory.lease(component, working_bytes=WORKING_BYTES) as module:
            spent = step_seconds(module, values)
    return spent, memory.last_plan.streamed_bytes if memory.last_plan else 0


def peer_seconds(
    offload: Callable[[Any, torch.device], object], device: torch.device, values: dict[str, Any]
) -> float:
    """Return a step's seconds with one of the peers' ways to offload."""
    module = unet()
    offload(module, device)
    return step_seconds(module, values)


def sequential(module: Any, device: torch.device) -> object:
    """Offload every layer when it has run."""
    from accelerate import cpu_offload

    return cpu_offload(module, device)


def grouped(module: Any, device: torch.device) -> object:
    """Offload layer by layer on a stream, diffusers' fastest way at this peak."""
    on_gpu = device.type == "cuda"
    return module.enable_group_offload(
        onload_device=device, offload_type="leaf_level", use_stream=on_gpu, record_stream=on_gpu
    )


def measure() -> list[Row]:
    """Return the rows of G4, G5 and G6."""
    memory = manager(open_accelerator())
    device = memory.compute_device
    made = Component(role="denoiser", name="sdxl", fingerprint="sdxl", module=unet())
    values = inputs(device)
    link, total = link_bytes_per_second(), made.total_bytes
    resident, _ = leased_seconds(memory, made, total + ROOM, values)
    rows = []

    memory.mode = MemoryMode.LOWVRAM
    streamed, _ = leased_seconds(memory, made, GIB // SCALE, values)
    memory.mode = MemoryMode.NORMAL
    for name, offload, target in (
        ("accelerate, sequential", sequential, 0.20),
        ("diffusers, groups of leaves on a stream", grouped, 0.70),
    ):
        theirs = peer_seconds(offload, device, values)
        rows.append(
            Row(id="G4", name=f"SDXL step, weights in 1 GB: {name.partition(',')[0]}", peer=name,
                ratio=streamed / theirs, target=target, ours=streamed, theirs=theirs)
        )  # fmt: skip

    for share in (0.25, 0.5, 0.75):
        spent, travelling = leased_seconds(memory, made, int(total * share), values)
        bound = max(resident, travelling / link)
        rows.append(
            Row(id="G5", name=f"SDXL step, weights in {share:.0%} of their bytes",
                peer="max(resident step, bytes ÷ link)", ratio=spent / bound, target=1.10,
                ours=spent, theirs=bound, details={"link": link, "resident_s": resident})
        )  # fmt: skip

    rows += _returning(memory, made, values, resident)
    memory.release(made)
    return rows


def _returning(
    memory: MemoryManager, made: Component, values: dict[str, Any], resident: float
) -> list[Row]:
    """Measure a picture's steps after the U-Net had to leave."""
    memory.inference_bytes = memory.device.total_bytes - made.total_bytes - ROOM
    memory.evict_all()

    def ours() -> None:
        with memory.lease(made, working_bytes=WORKING_BYTES) as module:
            run_steps(module, values, PICTURE_STEPS)

    spent = seconds_of(ours)
    memory.evict_all()
    module = unet()
    device = memory.compute_device

    def theirs() -> None:
        # What diffusers' enable_model_cpu_offload does: there, and back when the next one comes.
        module.to(device)
        run_steps(module, values, PICTURE_STEPS)
        module.to("cpu")

    offloaded = seconds_of(theirs)
    staying = PICTURE_STEPS * resident
    name = f"SDXL, {PICTURE_STEPS} steps after the U-Net left"
    return [
        Row(id="G6", name=name, peer="as many steps of a resident U-Net", ratio=spent / staying,
            target=1.12, ours=spent, theirs=staying),
        Row(id="G6", name=f"{name}: model offloading", peer="to the GPU and back, as diffusers",
            ratio=spent / offloaded, target=0.60, ours=spent, theirs=offloaded),
    ]  # fmt: skip


if __name__ == "__main__":
    for row in measure():
        print(f"{row.id} {row.name:<50} {row.ratio:.3f}")
