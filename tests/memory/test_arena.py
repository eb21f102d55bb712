"""Arenas give their pages back even when tensors into them are still held."""

import sys
from pathlib import Path

import pytest
import torch

from sdforge.memory.arena import ALIGNMENT, Arena, aligned_bytes

MIB = 1024 * 1024


def anonymous_bytes() -> int:
    """Anonymous resident memory of this process (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon in /proc/self/status")


def test_views_are_aligned_and_do_not_overlap() -> None:
    arena = Arena(4 * ALIGNMENT)
    first = arena.allocate((3,), torch.float32)
    second = arena.allocate((5,), torch.float16)
    first.fill_(1.0)
    second.fill_(2.0)

    assert first.data_ptr() % ALIGNMENT == second.data_ptr() % ALIGNMENT == 0
    assert first.tolist() == [1.0] * 3
    assert second.tolist() == [2.0] * 5


def test_an_arena_refuses_more_than_it_was_made_for() -> None:
    arena = Arena(aligned_bytes((10,), torch.float32))
    arena.allocate((10,), torch.float32)
    with pytest.raises(ValueError, match="cannot hold"):
        arena.allocate((1,), torch.float32)


def test_scalars_and_empty_tensors_are_allowed() -> None:
    arena = Arena(ALIGNMENT)
    assert arena.allocate((), torch.float32).shape == ()
    assert arena.allocate((0, 3), torch.float32).shape == (0, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and relies on madvise")
def test_release_returns_pages_although_a_tensor_is_held() -> None:
    arena = Arena(64 * MIB)
    tensor = arena.allocate((16 * MIB,), torch.float32)
    before = anonymous_bytes()
    tensor.fill_(1.0)
    assert anonymous_bytes() - before > 60 * MIB
    arena.release()

    assert anonymous_bytes() - before < 4 * MIB
    assert tensor[0].item() == 0.0
    with pytest.raises(ValueError, match="cannot hold"):
        arena.allocate((1,), torch.float32)
