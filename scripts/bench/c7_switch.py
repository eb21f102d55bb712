"""C7: back to a checkpoint that is in memory; the peer is our own load of it from a warm file."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from big_file import big_checkpoint, provider_for
from timing import Comparison, Row, time_once

from sdforge.models.loader import ModelProvider

ROUNDS, WARM_UPS = 7, 2


def measure() -> list[Row]:
    """Return the ratios for tiny checkpoints and for one of 2 GB."""
    torch.set_num_threads(1)
    rows = []
    with big_checkpoint() as path:
        for name, titles in (("tiny", ("tiny-a", "tiny-b")), ("2 GB", ("big", "tiny-a"))):
            provider = provider_for(path)
            compared = _compare(provider, titles)
            provider.unload()
            peer = "loading it from a warm file"
            rows.append(compared.row("C7", f"switch to a checkpoint in memory: {name}", peer, 0.10))
    return rows


def _compare(provider: ModelProvider, titles: tuple[str, str]) -> Comparison:
    def get(title: str) -> Callable[[], object]:
        return lambda: provider.get(title)

    ours, theirs = [], []
    for number in itertools.count():
        provider.unload()
        loading = time_once(get(titles[0]))
        provider.get(titles[1])
        switching = time_once(get(titles[0]))
        if number >= WARM_UPS:
            ours.append(switching)
            theirs.append(loading)
        if len(ours) == ROUNDS:
            return Comparison(tuple(ours), tuple(theirs))
    raise AssertionError
