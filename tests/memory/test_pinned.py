"""Page-locked blocks: exact bytes, a cap, and given back."""

from __future__ import annotations

import torch

from sdforge.memory.pinned import PinnedBlocks, default_cap, shown_in


def blocks(cap: int, *, refuses: bool = False) -> tuple[PinnedBlocks, list[int]]:
    unlocked: list[int] = []
    made = PinnedBlocks(
        cap, lock=lambda block: not refuses, unlock=lambda block: unlocked.append(block.numel())
    )
    return made, unlocked


def test_tensors_are_packed_at_their_offsets_with_their_strides() -> None:
    made, _ = blocks(1000)
    kernel = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    bias = torch.randn(2)
    block = made.pack(1, 0, 448, [(0, kernel), (384, bias)])
    assert block is not None
    shown = shown_in(block, 0, kernel)
    assert torch.equal(shown, kernel)
    assert shown.stride() == kernel.stride()
    assert torch.equal(shown_in(block, 384, bias), bias)
    assert made.get(1, 0) is block
    assert made.used_bytes == 448


def test_beyond_the_cap_nothing_is_locked_and_what_was_is_given_back() -> None:
    made, unlocked = blocks(100)
    assert made.pack(1, 0, 64, []) is not None
    assert made.pack(1, 1, 64, []) is None
    made.release(1)
    assert (made.used_bytes, unlocked, made.get(1, 0)) == (0, [64], None)
    assert made.pack(2, 0, 64, []) is not None


def test_a_driver_that_refuses_is_not_asked_for_more() -> None:
    made, _ = blocks(1000, refuses=True)
    assert made.pack(1, 0, 64, []) is None
    assert made.used_bytes == 0
    assert made.pack(1, 1, 1, []) is None


def test_the_usual_cap_leaves_the_machine_most_of_its_memory() -> None:
    import psutil

    assert 0 < default_cap() <= 0.4 * psutil.virtual_memory().total
