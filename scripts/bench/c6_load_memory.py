"""C6: the peak of resident memory while 2 GB of fp16 weights are loaded and converted.

Ours and the peer's in fresh interpreters, after the same imports; peak minus what was there before.
To bf16, which has as many bytes as the file: there it can be compared with the file's bytes and the
peer's peak. In fp32 the weights that are kept are twice the file already, and by far the most of
what anybody's peak can be; that one is held against those weights.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from big_file import PEER, big_checkpoint, provider_for, save_configs
from timing import Row

HERE = Path(__file__).resolve().parent
_CODE = """
import sys
sys.path[:0] = {paths!r}
import resource, torch
from pathlib import Path
from big_file import peer_load, provider_for
path, configs = Path({path!r}), Path({configs!r})
theirs = peer_load(path, configs, torch.{target})
provider = provider_for(path, torch.{target})
ours = lambda: provider.get("big")
provider.get("tiny-a"), provider.unload()  # imports what loading needs
def rss(name):
    return next(int(row.split()[1]) for row in open("/proc/self/status") if row.startswith(name))
Path("/proc/self/clear_refs").write_text("5")
before = rss("VmHWM")
kept = {which}()
print((rss("VmHWM") - before) * 1024)
"""


def measure() -> list[Row]:
    """Return the ratios to the peer's peak and to the bytes that are kept."""
    peaks: dict[tuple[str, str], int] = {}
    with big_checkpoint() as path, TemporaryDirectory() as configs:
        provider = provider_for(path)
        save_configs(provider, Path(configs))
        provider.unload()
        size = path.stat().st_size
        for target in ("bfloat16", "float32"):
            for which in ("ours", "theirs"):
                peaks[target, which] = _peak(which, target, path, Path(configs))
    small, wide = peaks["bfloat16", "ours"], peaks["float32", "ours"]
    theirs, theirs_wide = peaks["bfloat16", "theirs"], peaks["float32", "theirs"]
    note = (
        f"the peer's peak is {theirs_wide / (2 * size):.2f} of these weights, "
        f"ours is {wide / theirs_wide:.2f} of the peer's"
    )
    unit = {"unit": "bytes"}
    same, larger = "peak memory of loading, fp16 → bf16", "peak memory of loading, fp16 → fp32"
    return [
        Row(id="C6", name=same, peer=PEER, ratio=small / theirs, target=0.6, ours=small,
            theirs=theirs, **unit),
        Row(id="C6", name=same, peer="the file", ratio=small / size, target=1.1, ours=small,
            theirs=size, **unit),
        Row(id="C6", name=larger, peer="the weights in fp32", ratio=wide / (2 * size), target=1.1,
            ours=wide, theirs=2 * size, details={"note": note}, **unit),
    ]  # fmt: skip


def _peak(which: str, target: str, path: Path, configs: Path) -> int:
    code = _CODE.format(
        paths=[str(HERE), str(HERE.parents[1])],
        path=str(path),
        configs=str(configs),
        which=which,
        target=target,
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])
