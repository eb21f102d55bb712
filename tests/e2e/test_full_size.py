"""A checkpoint of SD 1.5's true size: listed by its header, loaded without a second copy.

Slow: writes 2.1 GB to the temporary folder. `python scripts/test.py -m slow tests/e2e`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdforge.models.families.sd_keys import Sizes
from tests.live import ROOT
from tests.tiny import make_checkpoint

MIB = 1024 * 1024

# In a process of its own, so that peaks are its own.
PROBE = """
import json, sys, time
from pathlib import Path

import torch

from sdforge.core.device import probe
from sdforge.core.paths import Paths
from sdforge.core.request import GenerationRequest, Recommended, resolve
from sdforge.core.settings import Settings
from sdforge.memory.device import open_device
from sdforge.memory.manager import MemoryManager
from sdforge.models.adapters.adapters import Adapters
from sdforge.models.library import Library
from sdforge.models.loader import ModelProvider, choose_precision
from sdforge.pipeline.conditioning import ConditioningCache
from sdforge.pipeline.context import RunContext
from sdforge.pipeline.generate import generate, load_bundle


def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


data, small = Path(sys.argv[1]), sys.argv[2]
started = time.perf_counter()
library = Library(Paths.under(data), hashing=False)
info = library.find("full")
listed = time.perf_counter() - started

device = probe(force_cpu=True)
provider = ModelProvider(
    library, MemoryManager(open_device(device)), precision=choose_precision(device)
)
provider.get(small)  # imports torch's and diffusers' parts, so that only weights count below
provider.unload()
Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
before = status("VmRSS:")
started = time.perf_counter()
bundle = provider.get("full")
loaded = time.perf_counter() - started
kept = sum(component.total_bytes for component in bundle.components.values())
growth = status("VmHWM:") - before

request = resolve(
    GenerationRequest(prompt="a cat", steps=1, width=128, height=128),
    checkpoint=info.title, recommended=Recommended(), sampler="Euler", schedule="Karras",
)
context = RunContext(
    request=request, settings=Settings(), models=provider, memory=provider._memory,
    conditioning=ConditioningCache(),
    adapters=Adapters(library.loras, library.embeddings, library.hypernetworks),
    emit=lambda event: None,
)
started = time.perf_counter()
picture = next(generate(context)).pixels
print(json.dumps({
    "family": info.family, "listed_seconds": listed, "loaded_seconds": loaded,
    "kept_bytes": kept, "growth_bytes": growth, "shape": picture.shape,
    "one_step_seconds": time.perf_counter() - started,
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(600)
def test_a_full_size_checkpoint_is_listed_by_header_and_loaded_without_a_second_copy(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "models" / "Stable-diffusion"
    make_checkpoint(folder / "small.safetensors")
    path = make_checkpoint(folder / "full.safetensors", Sizes(), dtype="F16")
    assert path.stat().st_size > 2_000 * MIB
    started = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path), "small"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    figures = json.loads(run.stdout.splitlines()[-1])
    print(figures, f"{time.monotonic() - started:.0f} s")  # noqa: T201 - the figures are the point

    assert figures["listed_seconds"] < 1.0
    assert figures["growth_bytes"] <= 1.1 * figures["kept_bytes"]
    assert figures["kept_bytes"] == pytest.approx(2 * path.stat().st_size, rel=0.05)
    assert figures["shape"] == [128, 128, 3]
