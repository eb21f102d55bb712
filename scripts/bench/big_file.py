"""What C5, C6 and C7 share: a checkpoint of SD 1.5's size, and loading it as we and a peer do."""

from __future__ import annotations

import gc
import json
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from scripts.make_tiny_checkpoints import TINY, write_checkpoint
from sdforge.core.paths import Paths
from sdforge.core.settings import Settings
from sdforge.memory.manager import MemoryManager
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.families.sd_keys import Sizes
from sdforge.models.library import Library
from sdforge.models.loader import ModelProvider, Precision

GIB = 1024**3
# Linux 5.14; Python has no name for it yet.
_MADV_POPULATE_WRITE = 23
PEER = "diffusers `StableDiffusionPipeline.from_single_file`"


@contextmanager
def big_checkpoint() -> Iterator[Path]:
    """Write 2.13 GB of random fp16 weights under SD 1.5's names; removed afterwards."""
    with TemporaryDirectory() as folder:
        path = Paths.under(Path(folder)).checkpoints[0] / "big.safetensors"
        write_checkpoint(path, Sizes(), dtype="F16", metadata={})
        write_checkpoint(path.with_name("tiny-a.safetensors"), TINY, seed=1, dtype="F16")
        write_checkpoint(path.with_name("tiny-b.safetensors"), TINY, seed=2, dtype="F16")
        yield path


def provider_for(path: Path, dtype: torch.dtype = torch.float16) -> ModelProvider:
    """Return a provider over the file's folder, for a device that weights are copied to."""
    data = path.parents[2]
    memory = MemoryManager(SimulatedDevice(16 * GIB))
    provider = ModelProvider(
        Library(Paths.under(data)), memory, precision=Precision(dtype, dtype, dtype)
    )
    # So that nothing but what is asked for decides what stays.
    provider.configure(Settings(models_memory_limit=12 * 1024))
    return provider


def save_configs(provider: ModelProvider, folder: Path) -> None:
    """Write what the peer would else fetch from the network: the networks' configurations."""
    from transformers import CLIPTextConfig

    bundle = provider.get("big")
    for role, name in (("denoiser", "unet"), ("vae", "vae")):
        module: Any = bundle.components[role].module
        module.save_config(folder / name)
    sizes = Sizes()
    text = CLIPTextConfig(
        vocab_size=sizes.vocabulary, hidden_size=sizes.text_width, hidden_act="quick_gelu",
        intermediate_size=4 * sizes.text_width, num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.text_width // 64,
    )  # fmt: skip
    text.architectures = ["CLIPTextModel"]
    text.save_pretrained(folder / "text_encoder")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


def peer_load(path: Path, configs: Path, dtype: torch.dtype) -> Callable[[], object]:
    """Return the peer's load of the same networks from the same file, without a tokenizer."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)

    def load() -> object:
        return StableDiffusionPipeline.from_single_file(
            str(path), config=str(configs), local_files_only=True, torch_dtype=dtype,
            scheduler=scheduler, tokenizer=None, safety_checker=None, feature_extractor=None,
        )  # fmt: skip

    return load


def read_raw(path: Path) -> None:
    """Read a file from end to end, as fast as reading goes."""
    buffer = bytearray(8 * 1024 * 1024)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def drop_cache(path: Path) -> None:
    """Take one file's pages out of the system's cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def take_memory(size: int) -> None:
    """Have a virtual machine's host back so much free memory as is about to be filled.

    Hosts take back what a guest has freed, and giving it again takes longer than the work measured.
    """
    gc.collect()
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory.madvise(_MADV_POPULATE_WRITE)


def touch(provider: ModelProvider) -> None:
    """Read every page of the loaded weights once."""
    assert provider.current
    for component in provider.current.components.values():
        for master in component.masters:
            master.stored.view(-1).view(torch.uint8)[::4096].sum()
