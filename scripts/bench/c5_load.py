"""C5: from a checkpoint's name to its bundle, 2 GB in SD 1.5's layout; peers read the same file.

Warm: the file is in the system's cache, and weights of the wanted type are mapped where they lie.
Cold: its pages were dropped, and the time ends when every page of the weights has been read. The
peer that loads does so from the network's own configuration, saved beside the file.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from big_file import (
    GIB,
    PEER,
    big_checkpoint,
    drop_cache,
    peer_load,
    provider_for,
    read_raw,
    save_configs,
    take_memory,
    touch,
)
from timing import Comparison, Row, compare

# A load of mapped weights takes a fiftieth of a second: one interruption would decide few of them.
ROUNDS = 25
PEER_ROUNDS = 3


def measure() -> list[Row]:
    """Return the ratios to reading the file and to diffusers."""
    torch.set_num_threads(1)
    with big_checkpoint() as path, TemporaryDirectory() as folder:
        provider = provider_for(path)
        save_configs(provider, Path(folder))
        assert provider.current
        while provider.current.identity.sha256 is None:
            time.sleep(0.1)  # done once in a file's life; it would weigh on the first rounds

        def load() -> None:
            provider.get("big")

        def load_and_touch() -> None:
            provider.get("big")
            touch(provider)

        def before() -> None:
            provider.unload()

        def before_cold() -> None:
            provider.unload()
            drop_cache(path)

        warm = compare(load, lambda: read_raw(path), rounds=ROUNDS, before=before)
        cold = compare(
            load_and_touch, lambda: read_raw(path), rounds=3, warm_ups=1, before=before_cold
        )
        read_raw(path)
        same = compare(
            load,
            peer_load(path, Path(folder), torch.float16),
            rounds=PEER_ROUNDS,
            warm_ups=1,
            before=before,
        )
        provider.unload()
        converting = provider_for(path, torch.float32)

        def convert() -> None:
            converting.get("big")

        def before_converting() -> None:
            converting.unload()
            take_memory(6 * GIB)

        converted = compare(
            convert,
            peer_load(path, Path(folder), torch.float32),
            rounds=PEER_ROUNDS,
            warm_ups=1,
            before=before_converting,
        )
        converting.unload()
    raw = "reading the file"
    return [
        warm.row("C5", "checkpoint → bundle, 2 GB, warm", raw, 0.10, note=_floor(warm)),
        cold.row("C5", "checkpoint → weights read, 2 GB, cold", raw, 1.3),
        same.row("C5", "checkpoint → bundle, 2 GB, warm", PEER, 0.25),
        converted.row("C5", "checkpoint → bundle, fp16 → fp32", PEER, 1.0),
    ]


def _floor(warm: Comparison) -> str:
    milliseconds = 1000 * min(warm.ours)
    return f"no weight is read; building the networks' modules takes some {milliseconds:.0f} ms"
