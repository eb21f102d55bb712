"""How much memory a merge takes: a few million numbers at a time, however large the files are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.make_tiny_checkpoints import write_checkpoint
from sdforge.models.families.sd_keys import Sizes
from sdforge.models.layout import TensorInfo
from sdforge.models.opening import open_model

MIB = 2**20
# What the allocator, the buffers of three files and the numbers at work may take together.
SLACK_BYTES = 120 * MIB
LARGE = Sizes(unet_width=112, text_width=320, text_layers=2, vae_width=64)

_CHILD = """
import sys
from pathlib import Path
from sdforge.core.merge import Merge
from sdforge.models.merging.plan import plan_merge
from sdforge.models.merging.write import write_merged
from sdforge.models.opening import open_model

def peak():
    with open("/proc/self/status") as status:
        rows = dict(line.split(":", 1) for line in status)
    return int(rows["VmHWM"].split()[0]) * 1024

a, b, c, small, target = map(Path, sys.argv[1:])
def merge(*paths):
    asked = Merge(primary="a", secondary="b", tertiary="c", method="Add difference",
                  multiplier=0.5, precision="fp16")
    plan = plan_merge(asked, [open_model(path) for path in paths])
    write_merged(plan, {}, target, lambda count: None)

merge(small, small, small)  # loads all that is needed
before = peak()
merge(a, b, c)
print(peak() - before)
"""


def largest(path: Path) -> int:
    infos: list[TensorInfo] = list(open_model(path).tensors.values())
    return max(info.size_bytes for info in infos)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
def test_a_merge_takes_memory_for_a_few_tensors_only(tmp_path: Path) -> None:
    first = write_checkpoint(tmp_path / "a.safetensors", LARGE, metadata={})
    (tmp_path / "b.safetensors").symlink_to(first)
    (tmp_path / "c.safetensors").symlink_to(first)
    small = write_checkpoint(
        tmp_path / "small.safetensors",
        Sizes(unet_width=32, unet_factors=(1, 2), text_width=32, text_layers=1, vocabulary=60,
              vae_width=32, vae_factors=(1, 2), blocks=1),
        metadata={},
    )  # fmt: skip
    size = first.stat().st_size
    assert size > 400 * MIB
    files = [str(tmp_path / f"{name}.safetensors") for name in "abc"]
    command = [sys.executable, "-c", _CHILD, *files, str(small), str(tmp_path / "m.safetensors")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False
    )
    assert done.returncode == 0, done.stderr
    growth = int(done.stdout)
    figure = f"{growth / MIB:.0f} MiB for three files of {size / MIB:.0f} MiB\n"
    sys.stdout.write(figure)
    assert growth <= 1.2 * 3 * largest(first) + SLACK_BYTES, figure
    assert growth < size / 2
