"""Switching between checkpoints for a long time leaves no trace in memory.

What grew with A1111 and Forge until they crashed: sweeps over checkpoints. Pictures are drawn
between the switches (plain, with a LoRA, with a hires pass, from a picture); modules, parameters
and views of all old models are kept on purpose; loading is done from the same and from fresh
threads.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from scripts.make_tiny_checkpoints import TINY
from sdforge.core.paths import demo_checkpoint
from sdforge.core.settings import Settings
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.families.sd_keys import checkpoint_shapes
from sdforge.models.families.sd_shapes import UNET
from tests.pipeline.conftest import Pipeline
from tests.tiny import GIB, Parts, Sizes, make_checkpoint, tiny_server_parts
from tests.tiny_lora import kohya_names, write_lora

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

log = logging.getLogger(__name__)

MIB = 1024 * 1024
# Each takes a pipeline and draws something with the checkpoint that is loaded.
WORK: tuple[dict[str, Any], ...] = (
    {"prompt": "a cat", "steps": 2},
    {"prompt": "a (red:1.2) dog", "negative_prompt": "blue", "steps": 2, "batch_size": 2},
    {"prompt": "a cat<lora:style:0.8>", "steps": 2},
    {"prompt": "a fox", "steps": 2, "hires": True, "hires_scale": 1.5, "denoising_strength": 0.5},
    {"prompt": "", "steps": 1, "sampler": "DPM++ 2M"},
    {"prompt": "a hill", "steps": 2, "from_picture": True, "denoising_strength": 0.6},
)


@dataclass(frozen=True)
class Footprint:
    """What this process holds of the system."""

    anonymous: int
    device: int
    mappings: int
    descriptors: int


@dataclass
class Soak:
    """A server's parts that switch, draw and, if told so, keep what they should not."""

    parts: Parts
    titles: list[str]
    leak: bool = False
    held: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pipeline = Pipeline(self.parts)
        self.picture = self.pipeline.put(Image.new("RGB", (64, 64), (90, 120, 200)))
        shapes = {
            name.removeprefix(UNET): shape
            for name, shape in checkpoint_shapes(TINY).items()
            if name.startswith(UNET)
        }
        # Fits the tiny checkpoints; on others what does not fit is left out, with a notice.
        write_lora(
            self.parts.paths.data / "models" / "Lora" / "style.safetensors",
            kohya_names(shapes, "lora_unet_", containing=("attn1.to_",)),
        )
        self.parts.library.loras.refresh()

    def step(self, number: int, works: Sequence[dict[str, Any]] = ()) -> None:
        """Switch to the next checkpoint and draw with it: `works`, or the next kind of work."""
        bundle = self.parts.provider.get(self.titles[number % len(self.titles)])
        if self.leak:
            for component in bundle.components.values():
                view = component.masters[0].stored.view(-1)[:8]
                self.held += [component.module, *component.module.parameters(), view]
        for work in works or (WORK[number % len(WORK)],):
            values = dict(work)
            if values.pop("from_picture", False):
                values["init_images"] = (self.picture,)
            context = self.pipeline.context(**values)
            for picture in _generate(context, bundle.info.title):
                assert picture.pixels.std() > 0

    def footprint(self) -> Footprint:
        """Return what is held with all models given back."""
        self.pipeline.conditioning.clear()
        self.parts.provider.unload()
        gc.collect()
        device = self.parts.memory.device
        return Footprint(
            anonymous=_status_kib("RssAnon") * 1024,
            device=device.own_bytes(),
            mappings=sum(line.endswith(".safetensors") for line in _lines("/proc/self/maps")),
            descriptors=len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        )

    def run(
        self,
        numbers: range,
        works: Sequence[dict[str, Any]] = (),
        *,
        fresh_threads: bool = False,
    ) -> None:
        for number in numbers:
            if fresh_threads:
                _in_thread(lambda number=number: self.step(number, works))
            else:
                self.step(number, works)


def _generate(context: Any, title: str) -> Iterator[Any]:
    from dataclasses import replace

    from sdforge.pipeline.generate import generate

    context.request = replace(context.request, checkpoint=title)
    yield from generate(context)


def _in_thread(work: Callable[[], None]) -> None:
    faults: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            faults.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if faults:
        raise faults[0]


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _status_kib(name: str) -> int:
    return next(int(row.split()[1]) for row in _lines("/proc/self/status") if row.startswith(name))


def _check(before: Footprint, after: Footprint, allowed: int, *, leak: bool) -> None:
    grown = after.anonymous - before.anonymous
    log.info(
        f"anonymous {before.anonymous / MIB:.1f} → {after.anonymous / MIB:.1f} MiB "
        f"({grown / MIB:+.1f}), mappings {before.mappings} → {after.mappings}, "
        f"descriptors {before.descriptors} → {after.descriptors}"
    )
    assert grown <= allowed, f"grew by {grown / MIB:.1f} MiB"
    assert after.device == 0
    assert after.descriptors <= before.descriptors
    if not leak:
        # A view that is kept keeps its mapping of the file: addresses, no memory.
        assert (before.mappings, after.mappings) == (0, 0)


@pytest.mark.parametrize(
    "leak",
    [pytest.param(False, id="clean", marks=pytest.mark.slow), pytest.param(True, id="leaking")],
)
def test_a_few_switches_leave_nothing_behind(tmp_path: Path, checkpoint: Path, leak: bool) -> None:
    parts = _tiny_parts(tmp_path, checkpoint)
    parts.provider.configure(Settings(sd_checkpoints_limit=1))
    soak = Soak(parts, ["half", "tiny"], leak=leak)
    soak.run(range(2))
    before = soak.footprint()
    soak.run(range(2, 6))
    soak.run(range(6, 8), fresh_threads=True)
    # 26 MB in fp32 each: plain tensors leaked six times would be 156 MB. Bare modules are some 4.
    _check(before, soak.footprint(), (12 + 30 * leak) * MIB, leak=leak)


def _tiny_parts(folder: Path, checkpoint: Path) -> Parts:
    half = make_checkpoint(folder / "half.safetensors", seed=1, dtype="F16")
    return tiny_server_parts(folder / "data", checkpoint, half, device=SimulatedDevice(GIB))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("threads", ["same", "fresh"])
@pytest.mark.parametrize("leak", [False, True], ids=["clean", "leaking"])
def test_fifty_switches_over_five_checkpoints_leave_nothing_behind(
    tmp_path: Path, threads: str, leak: bool
) -> None:
    """Two demo models that share VAE and text encoder, and three sizes of random ones."""
    demo = demo_checkpoint()
    changed = load_file(demo)
    for key, tensor in changed.items():
        if key.startswith("model.diffusion_model."):
            changed[key] = tensor * 1.01
    files = [demo, tmp_path / "changed.safetensors"]
    save_file(changed, files[1])
    del changed, tensor
    medium = Sizes(unet_width=64, text_width=256, text_layers=4, vae_width=64)
    files.append(make_checkpoint(tmp_path / "medium.safetensors", medium, dtype="F16"))
    files.append(make_checkpoint(tmp_path / "tiny.safetensors", seed=1))
    files.append(make_checkpoint(tmp_path / "half.safetensors", seed=2, dtype="F16"))
    parts = tiny_server_parts(tmp_path / "data", *files, device=SimulatedDevice(4 * GIB))
    parts.provider.configure(Settings(sd_checkpoints_limit=2))
    soak = Soak(parts, [file.stem for file in files], leak=leak)
    is_fresh = threads == "fresh"
    # Each kind of work once with each checkpoint: the math libraries keep a kernel per shape.
    soak.run(range(5), WORK, fresh_threads=is_fresh)
    soak.run(range(5, 10), fresh_threads=is_fresh)
    before = soak.footprint()
    soak.run(range(10, 50), fresh_threads=is_fresh)
    after = soak.footprint()
    loaded = sum(file.stat().st_size for file in files) * 8 * 2  # what the 40 switches read
    log.info(f"{threads} threads, leaking {leak}, {loaded / MIB:.0f} MiB of weights loaded")
    # 1 % of what is there, and the bare module objects where they are kept: 4 MB each time.
    _check(before, after, before.anonymous // 100 + (40 * 5 * MIB if leak else 0), leak=leak)


@pytest.fixture(autouse=True)
def one_heap() -> None:
    """The server starts with one malloc arena; without it every fresh thread gets its own."""
    if os.environ.get("MALLOC_ARENA_MAX") != "1":
        _mallopt_arena_max()


def _mallopt_arena_max() -> None:
    import ctypes

    m_arena_max = -8
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(m_arena_max, 1)


def test_the_measure_sees_a_leak() -> None:
    before = _status_kib("RssAnon")
    kept = torch.ones(16 * MIB // 4)
    assert _status_kib("RssAnon") - before > 14 * 1024
    del kept
