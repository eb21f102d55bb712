"""Freed heap memory goes back to the system when it is trimmed."""

import ctypes
import sys

import pytest

from sdforge.memory.heap import trim_heap
from tests.memory.test_arena import anonymous_bytes

MIB = 1024 * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_trimming_returns_freed_pages_between_blocks_that_are_in_use() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    # Small enough for the heap proper; survivors all over it keep it from shrinking by itself.
    blocks = [libc.malloc(8 * 1024) for _ in range(8 * 1024)]
    for block in blocks:
        ctypes.memset(block, 1, 8 * 1024)
    survivors = blocks[511::512]
    for block in set(blocks) - set(survivors):
        libc.free(block)
    kept = anonymous_bytes()
    trim_heap()

    assert kept - anonymous_bytes() > 32 * MIB
    for block in survivors:
        libc.free(block)
