#!/usr/bin/env python3
"""Write tiny models with random weights, for tests and for trying things.

    python scripts/make_tiny_checkpoints.py models/Stable-diffusion      # SD 1.x, four files
    python scripts/make_tiny_checkpoints.py --all models                 # every family and format

They have the key names and the structure of real ones at a tenth of the width, so that every path
of the program runs on them within a second; their pictures are noise. The same seed gives the same
bytes. `write_checkpoint` also serves `make_random_checkpoint.py`; the other families and formats
are in `tiny_models/catalogue.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sdforge.models.families.sd_keys import Sizes, checkpoint_shapes  # noqa: E402

TINY = Sizes(
    unet_width=32,
    unet_factors=(1, 2, 2, 2),
    text_width=32,
    text_layers=2,
    vae_width=32,
    vae_factors=(1, 1, 2, 2),
)
TINY_METADATA = {
    "modelspec.resolution": "64x64",
    "sdforge.steps": "4",
    "sdforge.cfg_scale": "4",
    "sdforge.sampler": "Euler",
}
_NUMBERS = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
_NORMS = ("norm", ".in_layers.0.", ".out_layers.0.", ".out.0.")
# Random numbers are drawn once and used from another place for each tensor: drawing a thousand
# million of them would take a minute.
_POOL = 1 << 22


def write_checkpoint(
    path: Path,
    sizes: Sizes = TINY,
    *,
    seed: int = 0,
    dtype: str = "F32",
    metadata: Mapping[str, str] | None = None,
    prefix: str = "",
) -> Path:
    """Write a random checkpoint tensor by tensor and return its path.

    Args:
        path: the file to write.
        sizes: widths of its networks.
        seed: other seeds give other weights.
        dtype: "F32" or "F16".
        metadata: the file's metadata.
        prefix: write only tensors whose name begins so, without it (a VAE alone).
    """
    numbers = _NUMBERS[dtype]
    shapes = {
        name.removeprefix(prefix): shape
        for name, shape in checkpoint_shapes(sizes).items()
        if name.startswith(prefix)
    }
    header: dict[str, object] = {"__metadata__": dict(metadata or {})}
    place = 0
    for name, shape in shapes.items():
        end = place + math.prod(shape) * numbers.itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    weights = _Weights(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            weights.write(file, name, shape, numbers)
    return path


class _Weights:
    """Random weights at the scale that keeps signals near variance 1."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._pool = self._random.standard_normal(_POOL, dtype=np.float32)

    def write(self, file: BinaryIO, name: str, shape: tuple[int, ...], numbers: np.dtype) -> None:
        scale, offset = self._scale(name, shape)
        left = math.prod(shape)
        while left:
            start = int(self._random.integers(0, _POOL - 1))
            piece = self._pool[start : start + left]
            values = (piece * np.float32(scale) + np.float32(offset)).astype(numbers)
            file.write(values.tobytes())
            left -= len(piece)

    def _scale(self, name: str, shape: tuple[int, ...]) -> tuple[float, float]:
        if any(part in name for part in _NORMS):
            return 0.1, float(name.endswith("weight"))
        if len(shape) == 1:
            return 0.02, 0.0
        if "embedding.weight" in name:
            return 0.5, 0.0
        return 1 / math.sqrt(math.prod(shape[1:])), 0.0


def main() -> None:
    """Write SD 1.x (fp32, fp16, v-prediction, a VAE) into a folder, or everything below it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="every family, format and adapter")
    options = parser.parse_args()
    folder, seed = options.folder, options.seed
    if options.all:
        from scripts.tiny_models.catalogue import write_all

        for path in write_all(folder, seed):
            print(path)
        return
    v_metadata = {**TINY_METADATA, "modelspec.prediction_type": "v"}
    write_checkpoint(folder / "tiny.safetensors", seed=seed, metadata=TINY_METADATA)
    write_checkpoint(
        folder / "tiny-half.safetensors", seed=seed + 1, dtype="F16", metadata=TINY_METADATA
    )
    write_checkpoint(folder / "tiny-v.safetensors", seed=seed + 2, metadata=v_metadata)
    write_checkpoint(folder / "tiny.vae.safetensors", seed=seed + 3, prefix="first_stage_model.")


if __name__ == "__main__":
    main()
