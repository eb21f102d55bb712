"""C19: two LoRAs put on a U-Net and taken off again; the peer is diffusers, which fuses them.

The U-Net has SD 1.5's layout at half its width (215 million parameters, fp32), the LoRAs have rank
16 on all attention and feed-forward layers. Both sides read the same files. The second row is what
a step costs while they are in force, against the step without. On an accelerator the same is G12.
"""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timing import Comparison, Row, compare

from scripts.make_tiny_checkpoints import write_checkpoint
from sdforge.core.paths import Paths
from sdforge.memory.device import HostDevice
from sdforge.memory.manager import MemoryManager
from sdforge.models.adapters.lora import LoraPatcher, NetworkUse
from sdforge.models.bundle import ModelBundle
from sdforge.models.families.sd_keys import Sizes
from sdforge.models.library import Library
from sdforge.models.loader import ModelProvider, Precision
from tests.tiny_lora import write_lora

SIZES = Sizes(unet_width=160, text_width=384, text_layers=2, vae_width=32)
RANK = 16
ROUNDS, WARM_UPS = 5, 1
SWITCHES, STEPS = 7, 3
PARTS = ("attn1.to_", "attn2.to_", "ff.net.")
NAMES = ("a", "b")
MOST_DIFFERENCE = 1e-4


def load(folder: Path) -> tuple[ModelBundle, MemoryManager, Library]:
    """Return a bundle with random weights, loaded in fp32."""
    paths = Paths.under(folder)
    write_checkpoint(paths.checkpoints[0] / "half.safetensors", SIZES)
    library = Library(paths, hashing=False)
    memory = MemoryManager(HostDevice(8 * 2**30))
    full = Precision(torch.float32, torch.float32, torch.float32)
    return ModelProvider(library, memory, precision=full).get(""), memory, library


def write_loras(folder: Path, bundle: ModelBundle) -> list[Path]:
    """Write two LoRAs with diffusers' names, which both sides read."""
    module = bundle.components["denoiser"].module
    layers = {
        f"unet.{name.removesuffix('.weight')}": tuple(tensor.shape)
        for name, tensor in module.named_parameters()
        if name.endswith(".weight") and tensor.ndim > 1 and any(part in name for part in PARTS)
    }
    kohya = [write_lora(folder / f"{name}.tmp", layers, rank=RANK, alpha=RANK) for name in NAMES]
    files = []
    for path in kohya:
        tensors = {
            name.replace("lora_up", "lora_B").replace("lora_down", "lora_A"): tensor
            for name, tensor in load_file(path).items()
            if not name.endswith(".alpha")
        }
        files.append(_save(path.with_suffix(".safetensors"), tensors))
        path.unlink()
    return files


def _save(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    from safetensors.torch import save_file

    save_file(tensors, path)
    return path


def peer_of(bundle: ModelBundle) -> Any:
    """Return diffusers' U-Net with the same weights in memory of its own."""
    from diffusers import UNet2DConditionModel

    ours = bundle.components["denoiser"].module
    config: Any = ours.config
    theirs = UNet2DConditionModel.from_config(config)
    theirs.load_state_dict(ours.state_dict())
    return theirs.requires_grad_(False).eval()


def fuse(unet: Any, files: list[Path]) -> None:
    """Put LoRAs on diffusers' U-Net."""
    for name, path in zip(NAMES, files, strict=True):
        unet.load_lora_adapter(load_file(path), prefix="unet", adapter_name=name)
    unet.set_adapters(list(NAMES), weights=[1.0, 0.5])
    unet.fuse_lora(adapter_names=list(NAMES))


def measure() -> list[Row]:
    """Return the ratios of applying and removing, and of a step."""
    torch.set_num_threads(1)
    # It takes the first LoRA's tensors for missing ones each time that it loads the second.
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        bundle, memory, library = load(Path(folder))
        unet = bundle.components["denoiser"]
        files = write_loras(Path(folder) / "models" / "Lora", bundle)
        patcher, peer = LoraPatcher(library.loras), peer_of(bundle)
        uses = [NetworkUse(name="a"), NetworkUse(name="b", te=0.5)]
        probe = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"

        def ours() -> None:
            patcher.apply(bundle, uses)
            with memory.lease(unet):
                pass
            patcher.apply(bundle, [])
            with memory.lease(unet):
                pass

        def theirs() -> None:
            fuse(peer, files)
            peer.unfuse_lora()
            peer.unload_lora()

        fuse(peer, files)
        patcher.apply(bundle, uses)
        wanted = dict(peer.named_parameters())[probe.replace("to_k.", "to_k.base_layer.")]
        got = unet.read(unet.master(probe), unet.master(probe).stored)
        difference = float((wanted - got).abs().max())
        if difference > MOST_DIFFERENCE:
            raise RuntimeError(f"weights differ from diffusers' by {difference:.1e}")
        peer.unfuse_lora()
        peer.unload_lora()
        times = compare(ours, theirs, rounds=ROUNDS, warm_ups=WARM_UPS)
        step = _compare_steps(patcher, bundle, memory, uses)
    return [
        times.row(
            "C19", "two LoRAs on and off", "diffusers, load + fuse + unfuse", 0.5,
            difference=difference,
        ),
        step.row("C19", "a step with two LoRAs: processor time", "the step without", 1.05),
    ]  # fmt: skip


def _compare_steps(
    patcher: LoraPatcher, bundle: ModelBundle, memory: MemoryManager, uses: list[NetworkUse]
) -> Comparison:
    """Take the processor time of a step with LoRAs in force and of one without, in turn.

    Two bundles' worth of memory would differ in more than the LoRAs, so one is switched; that, and
    the first step after it, are not timed.
    """
    x, hidden = torch.zeros(1, 4, 32, 32), torch.zeros(1, 77, SIZES.text_width)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(SWITCHES):
        for wanted, seconds in zip((uses, []), times, strict=True):
            patcher.apply(bundle, wanted)
            lease = memory.lease(bundle.components["denoiser"])
            with lease as module, torch.inference_mode():
                for number in range(WARM_UPS + STEPS):
                    began = time.process_time()
                    module(x, 500.0, encoder_hidden_states=hidden)
                    if number >= WARM_UPS:
                        seconds.append(time.process_time() - began)
    return Comparison(tuple(times[0]), tuple(times[1]))


if __name__ == "__main__":
    for row in measure():
        print(f"{row.name:<40} {row.ratio:.3f}  {row.ours * 1e3:.0f} ms, {row.theirs * 1e3:.0f} ms")
