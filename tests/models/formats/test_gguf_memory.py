"""How much memory a GGUF file takes: its own size, all of it read, and no second copy."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from scripts.tiny_models import text, transformers, vae
from scripts.tiny_models.files import random_tensors, write_safetensors

MIB = 2**20
ROOT = Path(__file__).parents[3]

_CHILD = """
import sys
from pathlib import Path
from tests.tiny import tiny_server_parts

def peak():
    with open("/proc/self/status") as status:
        rows = dict(line.split(":", 1) for line in status)
    return int(rows["VmHWM"].split()[0]) * 1024

parts = tiny_server_parts(Path(sys.argv[1]))
modules = ("ae.safetensors", "clip_l.safetensors", "t5xxl.safetensors")

def load(name):
    bundle = parts.provider.get(parts.library.find(name).title, modules=modules)
    # Every page of the packed weights, which are mapped, is asked for.
    for master in bundle.components["denoiser"].masters:
        master.stored.view(-1)[::512].sum()

load("small.gguf")  # loads all libraries
before = peak()
load("large.gguf")
print(peak() - before)
"""


def write_packed(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """Write a Q4_0 file of these tensors from one pool of random bytes; return its size."""
    kind = gguf.GGMLQuantizationType.Q4_0
    most = max(math.prod(shape) for shape in shapes.values())
    pool = np.random.default_rng(1).integers(0, 60, most // 32 * 18 + 18, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(path), "flux")
    for name, shape in shapes.items():
        if len(shape) == 2 and shape[-1] % 32 == 0:
            rows = (shape[0], shape[1] // 32 * 18)
            writer.add_tensor(name, pool[: math.prod(rows)].reshape(rows), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.stat().st_size


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
def test_a_packed_file_takes_its_own_size_in_memory(tmp_path: Path) -> None:
    models = tmp_path / "models"
    checkpoints = models / "Stable-diffusion"
    write_packed(checkpoints / "small.gguf", transformers.flux())
    size = write_packed(
        checkpoints / "large.gguf", transformers.flux(width=1536, double=4, single=8, head=128)
    )
    assert size > 300 * MIB
    others = {
        "VAE/ae": vae.vae(vae.SIXTEEN),
        "text_encoder/clip_l": text.clip(text.CLIP_L),
        "text_encoder/t5xxl": text.t5(),
    }
    for name, shapes in others.items():
        write_safetensors(models / f"{name}.safetensors", random_tensors(shapes, 1), "F32")
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    growth = int(done.stdout.split()[-1])
    figure = f"{growth / MIB:.0f} MiB for a file of {size / MIB:.0f} MiB\n"
    sys.stdout.write(figure)
    assert 0.5 * size < growth <= 1.1 * size, figure
