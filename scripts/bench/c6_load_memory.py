"""C6: the peak of resident memory while 2 GB of fp16 weights are loaded and made fp32.

Ours and the peer's in fresh interpreters, after the same imports; peak minus what was there before.
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
theirs = peer_load(path, configs, torch.float32)
provider = provider_for(path, torch.float32)
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
    with big_checkpoint() as path, TemporaryDirectory() as configs:
        provider = provider_for(path)
        save_configs(provider, Path(configs))
        provider.unload()
        kept = 2 * path.stat().st_size
        ours, theirs = (_peak(which, path, Path(configs)) for which in ("ours", "theirs"))
    unit = {"unit": "bytes"}
    note = (
        f"the weights in fp32, which are kept, come to {kept / theirs:.2f} of the peer's peak; "
        "beside them ours takes next to nothing"
    )
    return [
        Row(id="C6", name="peak memory of loading, fp16 → fp32", peer=PEER, ratio=ours / theirs,
            target=0.6, ours=ours, theirs=theirs, details={"note": note}, **unit),
        Row(id="C6", name="peak memory of loading, fp16 → fp32", peer="the weights in fp32",
            ratio=ours / kept, target=1.1, ours=ours, theirs=kept, **unit),
    ]  # fmt: skip


def _peak(which: str, path: Path, configs: Path) -> int:
    code = _CODE.format(
        paths=[str(HERE), str(HERE.parents[1])], path=str(path), configs=str(configs), which=which
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])
