"""C8: listing a library of 300 checkpoints; the peer opens the same files with safetensors.

The files have the true header of SD 1.5 and take no disk. The first scan reads and judges every
header, the second one looks at sizes and times only. Files saved by the same tools have the same
layout, which is parsed once; the worst case, files that all have their own, is shown beside.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import safe_open
from timing import Row, compare

from sdforge.core.paths import Paths
from sdforge.models.families.sd_keys import Sizes, checkpoint_shapes
from sdforge.models.library import Library
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
        shutil.rmtree(root)
    name = "safetensors `safe_open`"
    return [
        first.row("C8", f"scan of {FILES} checkpoints: first", name, 1.2),
        again.row("C8", f"scan of {FILES} checkpoints: again", name, 0.05),
        unlike.row("C8", f"scan of {UNLIKE} unlike layouts: first", name, 1.2),
    ]
