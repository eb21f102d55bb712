"""G8: how fast weights come to the device: from main memory, and from a file in the system's cache.

From main memory SDXL's U-Net of random weights, against its bytes ÷ the measured link; from the
file a checkpoint of SD 1.5's size (2 GB), against reading the file. Needs a GPU (see
`accelerator.py`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerator import (
    TINY,
    link_bytes_per_second,
    manager,
    open_accelerator,
    seconds_of,
    unet,
)
from big_file import read_raw
from timing import Row

from scripts.make_tiny_checkpoints import TINY as TINY_SIZES
from scripts.make_tiny_checkpoints import write_checkpoint
from sdforge.core.paths import Paths
from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.models.families.sd_keys import Sizes
from sdforge.models.library import Library
from sdforge.models.loader import ModelProvider, Precision

ROUNDS = 2 if TINY else 5


def _rounds(work: Callable[[], object], before: Callable[[], object]) -> list[float]:
    seconds = []
    for _ in range(ROUNDS):
        before()
        seconds.append(seconds_of(work))
    return seconds


def measure() -> list[Row]:
    """Return both switches."""
    memory = manager(open_accelerator())
    return [_from_memory(memory), _from_file(memory)]


def _from_memory(memory: MemoryManager) -> Row:
    made = Component(role="denoiser", name="sdxl", fingerprint="sdxl", module=unet())
    bound = made.total_bytes / link_bytes_per_second()

    def place() -> None:
        with memory.lease(made):
            pass

    seconds = _rounds(place, memory.evict_all)
    memory.release(made)
    ours = statistics.median(seconds)
    return Row(
        id="G8", name="SDXL U-Net, main memory → device", peer="its bytes ÷ the link",
        ratio=ours / bound, target=1.15, ours=ours, theirs=bound, details={"all_s": seconds},
    )  # fmt: skip


def _from_file(memory: MemoryManager) -> Row:
    dtype = torch.float32 if TINY else torch.float16
    with TemporaryDirectory() as folder:
        paths = Paths.under(Path(folder))
        path = paths.checkpoints[0] / "big.safetensors"
        write_checkpoint(
            path, TINY_SIZES if TINY else Sizes(), dtype="F32" if TINY else "F16", metadata={}
        )
        provider = ModelProvider(
            Library(paths, hashing=False), memory, precision=Precision(dtype, dtype, dtype)
        )

        def switch() -> None:
            for component in provider.get("big").components.values():
                with memory.lease(component):
                    pass

        switch()  # once, so that the file is in the cache and its layout known
        seconds = _rounds(switch, provider.unload)
        reading = _rounds(lambda: read_raw(path), lambda: None)
        provider.unload()
    ours, theirs = statistics.median(seconds), statistics.median(reading)
    return Row(
        id="G8", name="checkpoint of 2 GB, file in the cache → device", peer="reading the file",
        ratio=ours / theirs, target=1.25, ours=ours, theirs=theirs, details={"all_s": seconds},
    )  # fmt: skip


if __name__ == "__main__":
    for row in measure():
        print(f"{row.id} {row.name:<50} {row.ratio:.3f}")
