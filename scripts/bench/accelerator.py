"""What the benchmarks of the suite gpu share: the device, SDXL's U-Net of random weights, links.

`--tiny` (the environment variable BENCH_TINY) rehearses them anywhere: a network of SDXL's plan
with narrow layers, on the simulated accelerator where there is no GPU. Its figures mean nothing;
what is seen is that they run through.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch

from sdforge.core.device import probe
from sdforge.memory.device import Device, open_device
from sdforge.memory.manager import MemoryManager
from sdforge.memory.simulated import SimulatedDevice

GIB = 1024**3
TINY = bool(os.environ.get("BENCH_TINY"))
STEPS = 1 if TINY else 8
# What a tiny network's bytes are to SDXL's, so that caps and activations shrink with them.
SCALE = 2000 if TINY else 1
# Tiny networks are cut as finely as large ones: some hundred units.
UNIT_CAP = 60_000 if TINY else None
_TINY_DEVICE_BYTES = 64 * 1024**2
SIDE = 16 if TINY else 128
CONTEXT = 64 if TINY else 2048
POOLED = 32 if TINY else 1280


def open_accelerator() -> Device:
    """Return the GPU.

    Raises:
        ModuleNotFoundError: there is none, and this is no rehearsal.
    """
    if torch.cuda.is_available():
        return open_device(probe())
    if TINY:
        return SimulatedDevice(_TINY_DEVICE_BYTES)
    raise ModuleNotFoundError("this benchmark needs a CUDA device", name="cuda")


def manager(device: Device) -> MemoryManager:
    """Return a memory manager over a device, with all of it to give away."""
    made = MemoryManager(device, unit_cap_bytes=UNIT_CAP)
    made.inference_bytes = 0
    return made


def synchronize() -> None:
    """Wait until the GPU has done all it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds that work takes, to its end on the GPU."""
    synchronize()
    began = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - began


def unet() -> Any:
    """Return SDXL's U-Net on the host, of random weights: fp16, or tiny in fp32."""
    from diffusers import UNet2DConditionModel

    sizes: dict[str, Any] = {
        "block_out_channels": (320, 640, 1280),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "addition_time_embed_dim": 256,
    }
    if TINY:
        sizes = {
            "block_out_channels": (32, 64, 64),
            "transformer_layers_per_block": (1, 1, 2),
            "attention_head_dim": (2, 4, 4),
            "addition_time_embed_dim": 8,
            "norm_num_groups": 8,
        }
    with torch.device("meta"):
        made = UNet2DConditionModel(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=CONTEXT,
            use_linear_projection=True,
            addition_embed_type="text_time",
            projection_class_embeddings_input_dim=POOLED + 6 * sizes["addition_time_embed_dim"],
            **sizes,
        ).to(_dtype())
    made.to_empty(device="cpu")
    for parameter in made.parameters():
        parameter.data.normal_(std=0.02)
    return made.requires_grad_(False).eval()


def _dtype() -> torch.dtype:
    return torch.float32 if TINY else torch.float16


def inputs(device: torch.device, side: int = SIDE) -> dict[str, Any]:
    """Return what one CFG forward takes at so many latent pixels a side."""

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=_dtype())

    return {
        "sample": noise(2, 4, side, side),
        "timestep": torch.tensor([500.0], device=device),
        "encoder_hidden_states": noise(2, 77, CONTEXT),
        "added_cond_kwargs": {"text_embeds": noise(2, POOLED), "time_ids": noise(2, 6)},
        "return_dict": False,
    }


@torch.inference_mode()
def run_steps(module: Any, values: dict[str, Any], steps: int) -> None:
    """Run a network so many times."""
    for _ in range(steps):
        module(**values)


def step_seconds(module: Any, values: dict[str, Any]) -> float:
    """Return the seconds of a step in the long run."""
    run_steps(module, values, 1 if TINY else 2)
    return seconds_of(lambda: run_steps(module, values, STEPS)) / STEPS


def link_bytes_per_second() -> float:
    """Return the speed of copies from page-locked memory, or of the host's without a GPU."""
    on_gpu = torch.cuda.is_available()
    size = GIB // 64 if TINY else GIB
    source = torch.empty(size, dtype=torch.uint8, pin_memory=on_gpu)
    target = torch.empty(size, dtype=torch.uint8, device="cuda" if on_gpu else "cpu")
    target.copy_(source)

    def copies() -> None:
        for _ in range(4):
            target.copy_(source, non_blocking=True)

    return 4 * size / seconds_of(copies)
