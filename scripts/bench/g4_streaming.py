"""G4–G6: SDXL's U-Net on a GPU whose weights may take only part of it; random weights, 1024².

G4: lowvram with the weights capped at 1 GB, against diffusers' sequential and group offloading.
G5: a quarter, half and three quarters resident, against max(computing, streamed bytes ÷ link),
both measured here. G6: the U-Net leaves and comes back for each picture, against staying.
Needs a GPU and diffusers; the host should have 16 GB.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from timing import Row

from sdforge.core.device import probe
from sdforge.memory.component import Component
from sdforge.memory.device import open_device
from sdforge.memory.manager import MemoryManager
from sdforge.memory.policy import MemoryMode

GIB = 1024**3
STEPS = 8
WORKING_BYTES = 2 * GIB


def unet() -> Any:
    """Return SDXL's U-Net in fp16 on the host, of random weights."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        made = UNet2DConditionModel(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ).half()
    made.to_empty(device="cpu")
    for parameter in made.parameters():
        parameter.data.normal_(std=0.02)
    return made.requires_grad_(False).eval()


def inputs(device: torch.device) -> dict[str, Any]:
    """Return what one CFG forward at 1024² takes."""

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=torch.float16)

    return {
        "sample": noise(2, 4, 128, 128),
        "timestep": torch.tensor([500.0], device=device),
        "encoder_hidden_states": noise(2, 77, 2048),
        "added_cond_kwargs": {"text_embeds": noise(2, 1280), "time_ids": noise(2, 6)},
        "return_dict": False,
    }


@torch.inference_mode()
def step_seconds(module: Any, values: dict[str, Any]) -> float:
    """Return the seconds of a step in the long run."""
    for _ in range(2):
        module(**values)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(STEPS):
        module(**values)
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / STEPS


def leased_seconds(
    memory: MemoryManager, component: Component, weights_bytes: int, values: dict[str, Any]
) -> tuple[float, int]:
    """Return a step's seconds with so many bytes for weights, and the bytes that stream in it."""
    memory.inference_bytes = memory.device.total_bytes - weights_bytes
    # The first lease sees the order, the second plans by it.
    for _ in range(2):
        memory.evict_all()
        with memory.lease(component, working_bytes=WORKING_BYTES) as module:
            spent = step_seconds(module, values)
    return spent, memory.last_plan.streamed_bytes if memory.last_plan else 0


def link_bytes_per_second() -> float:
    """Return the speed of copies from page-locked memory."""
    source = torch.empty(GIB, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(GIB, dtype=torch.uint8, device="cuda")
    target.copy_(source)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(4):
        target.copy_(source, non_blocking=True)
    torch.cuda.synchronize()
    return 4 * GIB / (time.perf_counter() - began)


def peer_seconds(offload: Callable[[Any], object], values: dict[str, Any]) -> float:
    """Return a step's seconds with one of diffusers' ways to offload."""
    module = unet()
    offload(module)
    return step_seconds(module, values)


def sequential(module: Any) -> object:
    """Offload every layer when it has run."""
    from accelerate import cpu_offload

    return cpu_offload(module, torch.device("cuda"))


def grouped(module: Any) -> object:
    """Offload layer by layer on a stream, diffusers' fastest way at this peak."""
    return module.enable_group_offload(
        onload_device=torch.device("cuda"),
        offload_type="leaf_level",
        use_stream=True,
        record_stream=True,
    )


def measure() -> list[Row]:
    """Return the rows of G4, G5 and G6."""
    if not torch.cuda.is_available():
        raise ModuleNotFoundError("this benchmark needs a CUDA device", name="cuda")
    memory = MemoryManager(open_device(probe()))
    made = Component(role="denoiser", name="sdxl", fingerprint="sdxl", module=unet())
    values = inputs(memory.compute_device)
    link, total = link_bytes_per_second(), made.total_bytes
    resident, _ = leased_seconds(memory, made, total + GIB, values)
    rows = []

    memory.mode = MemoryMode.LOWVRAM
    streamed, _ = leased_seconds(memory, made, GIB, values)
    memory.mode = MemoryMode.NORMAL
    for name, offload, target in (
        ("accelerate, sequential", sequential, 0.20),
        ("diffusers, groups of leaves on a stream", grouped, 0.70),
    ):
        theirs = peer_seconds(offload, values)
        rows.append(
            Row(id="G4", name="SDXL step, weights in 1 GB", peer=name, ratio=streamed / theirs,
                target=target, ours=streamed, theirs=theirs)
        )  # fmt: skip

    for share in (0.25, 0.5, 0.75):
        spent, travelling = leased_seconds(memory, made, int(total * share), values)
        bound = max(resident, travelling / link)
        rows.append(
            Row(id="G5", name=f"SDXL step, weights in {share:.0%} of their bytes",
                peer="max(resident step, bytes ÷ link)", ratio=spent / bound, target=1.10,
                ours=spent, theirs=bound, details={"link": link, "resident_s": resident})
        )  # fmt: skip

    rows.append(_returning(memory, made, values, resident))
    memory.release(made)
    return rows


def _returning(
    memory: MemoryManager, made: Component, values: dict[str, Any], resident: float
) -> Row:
    """Measure twenty steps after the U-Net had to leave."""
    memory.inference_bytes = memory.device.total_bytes - made.total_bytes - GIB
    memory.evict_all()
    torch.cuda.synchronize()
    began = time.perf_counter()
    with memory.lease(made, working_bytes=WORKING_BYTES) as module, torch.inference_mode():
        for _ in range(20):
            module(**values)
        torch.cuda.synchronize()
    spent = time.perf_counter() - began
    return Row(
        id="G6", name="SDXL, 20 steps after the U-Net left", peer="20 steps of a resident U-Net",
        ratio=spent / (20 * resident), target=1.12, ours=spent, theirs=20 * resident,
    )  # fmt: skip


if __name__ == "__main__":
    for row in measure():
        print(f"{row.id} {row.name:<50} {row.ratio:.3f}")
