#!/usr/bin/env python3
"""Write a Stable Diffusion 1.5 checkpoint of full size with random weights: 2.13 GB in fp16.

    python scripts/make_random_checkpoint.py /tmp/sd15-random.safetensors

All 1130 tensors have their true names and shapes, so loading times and memory are those of a real
one; its pictures are noise. Written in bounded memory.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.make_tiny_checkpoints import write_checkpoint  # noqa: E402
from sdforge.models.families.sd_keys import Sizes  # noqa: E402


def main() -> None:
    """Write the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("F16", "F32"), default="F16")
    options = parser.parse_args()
    write_checkpoint(
        options.path,
        Sizes(),
        seed=options.seed,
        dtype=options.dtype,
        metadata={"modelspec.resolution": "512x512"},
    )


if __name__ == "__main__":
    main()
