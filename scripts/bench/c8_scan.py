"""C8: listing a library of 300 checkpoints; the peer opens the same files with safetensors.

The files have the true header of SD 1.5 and take no disk. The first scan reads and judges every
header, the second one looks at sizes and times only. Files saved by the same tools have the same
layout, which is parsed once; the worst case, files that all have their own, is shown beside. So are
300 files with the true headers of fourteen models of all kinds, mixed, and how long the slowest of
those takes to be recognised with nothing kept from before (processor time).
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
from safetensors import safe_open
from timing import Comparison, Row, compare

from sdforge.core.paths import Paths
from sdforge.models import architectures, layout, parts
from sdforge.models.families.sd_keys import Sizes, checkpoint_shapes
from sdforge.models.inspect import inspect
from sdforge.models.library import Library
from tests.real_headers import REAL
from tests.tiny import sparse_checkpoint

FILES, UNLIKE = 300, 60
ROUNDS = 7


def measure() -> list[Row]:
    """Return the ratios of a first scan and of a second one."""
    with TemporaryDirectory() as folder:
        paths = Paths.under(Path(folder))
        root = paths.checkpoints[0]
        shapes = checkpoint_shapes(Sizes())
        for number in range(FILES):
            sparse_checkpoint(root / f"m{number:03}.safetensors", shapes)
        known = Library(paths)

        def scan() -> None:
            library = Library(paths)
            library.refresh()
            assert len(library.checkpoints()) in (FILES, UNLIKE)

        def peer() -> None:
            for path in sorted(root.glob("*.safetensors")):
                with safe_open(path, framework="pt") as file:
                    assert len(file.keys())

        known.refresh()
        first = compare(scan, peer, rounds=ROUNDS, warm_ups=1)
        again = compare(known.refresh, peer, rounds=ROUNDS, warm_ups=1)
        shutil.rmtree(root)
        draw = random.Random(0)
        for number in range(UNLIKE):
            names = draw.sample(list(shapes), len(shapes))
            mixed = {name: shapes[name] for name in names}
            sparse_checkpoint(root / f"m{number:03}.safetensors", mixed)
        unlike = compare(scan, peer, rounds=ROUNDS, warm_ups=1)
        floor = _floor(root, scan, peer)
        shutil.rmtree(root)
        mixed_scan = _mixed(root, scan, peer)
        slowest, seconds = _slowest(root)
    name = "safetensors `safe_open`"
    return [
        first.row("C8", f"scan of {FILES} checkpoints: first", name, 1.2),
        again.row("C8", f"scan of {FILES} checkpoints: again", name, 0.05),
        unlike.row("C8", f"scan of {UNLIKE} unlike layouts: first", name, 1.2, note=floor),
        mixed_scan.row("C8", f"scan of {FILES} files of {len(REAL)} kinds: first", name, 1.2),
        Row(
            id="C8",
            name=f"recognising {slowest}, the slowest of {len(REAL)} real headers",
            peer="50 ms",
            ratio=seconds / 0.05,
            target=1.0,
            ours=seconds,
            theirs=0.05,
        ),
    ]


def _floor(root: Path, scan: Callable[[], None], peer: Callable[[], None]) -> str:
    """Say in processor time what of a scan is parsing JSON, and what is checking every tensor."""
    texts = []
    for path in sorted(root.glob("*.safetensors")):
        with path.open("rb") as file:
            texts.append(file.read(int.from_bytes(file.read(8), "little")))

    def parse() -> None:
        for text in texts:
            orjson.loads(text)

    def check() -> None:
        layout.forget()
        for text in texts:
            layout.read_layout(text)

    whole, theirs, parsed, checked = map(_processor_seconds, (scan, peer, parse, check))
    json_share, checked_share = parsed / theirs, checked / theirs
    return (
        f"in processor time {whole / theirs:.2g}: parsing the JSON alone takes {json_share:.2g} of "
        f"the peer, with every tensor's type, shape and place checked {checked_share:.2g}; the "
        "rest keeps a thousand Python objects a header and recognises what they describe. Files "
        "that users have share layouts, which are parsed once"
    )


def _processor_seconds(run: Callable[[], None]) -> float:
    """Return the processor time of the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        run()
        best = min(best, time.process_time() - began)
    return best


def _mixed(root: Path, scan: Callable[[], None], peer: Callable[[], None]) -> Comparison:
    shapes = {real.file: real.make() for real in REAL}
    for number in range(FILES):
        real = REAL[number % len(REAL)]
        path = root / f"m{number:03}.safetensors"
        sparse_checkpoint(path, shapes[real.file], dtype=real.dtype)
    return compare(scan, peer, rounds=ROUNDS, warm_ups=1)


def _slowest(root: Path) -> tuple[str, float]:
    """Return which real header takes longest to be recognised, and how long."""
    seconds: dict[str, float] = {}
    for real, path in zip(REAL, sorted(root.glob("*.safetensors")), strict=False):
        for _ in range(ROUNDS):
            layout.forget()
            architectures.architecture.cache_clear()
            parts.parts.cache_clear()
            began = time.process_time()
            inspect(path)
            took = time.process_time() - began
            seconds[real.file] = min(seconds.get(real.file, took), took)
    slowest = max(seconds, key=lambda name: seconds[name])
    return slowest, seconds[slowest]
