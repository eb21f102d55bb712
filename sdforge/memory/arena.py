"""Host memory for weights that is really given back.

An arena is one anonymous mapping, outside the C heap: releasing it returns its pages to the system
at once, even while somebody still holds a tensor that points into it. With plain tensors a single
forgotten reference keeps a whole model, and the heap keeps freed memory besides.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
from collections.abc import Sequence

import torch

# A cache line, and enough alignment for every vector load that CPU kernels use.
ALIGNMENT = 64
# Below this a huge page would take up more than it saves.
_HUGE_FROM_BYTES = 16 * 1024 * 1024


def aligned_bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    """Return the bytes that a tensor takes up in an arena."""
    size = math.prod(shape) * dtype.itemsize
    return -(-size // ALIGNMENT) * ALIGNMENT


class Arena:
    """One anonymous mapping, handed out as tensors from front to back."""

    def __init__(self, total_bytes: int) -> None:
        """Reserve address space; pages are taken when they are first written."""
        self.total_bytes = total_bytes
        self.used_bytes = 0
        self.released = False
        self._map: mmap.mmap | None = _anonymous(max(total_bytes, 1))

    def allocate(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return the next `shape` tensor, zero-filled.

        Raises:
            ValueError: the arena is full or was released; its size was computed wrongly.
        """
        size = aligned_bytes(shape, dtype)
        if self._map is None or self.used_bytes + size > self.total_bytes:
            raise ValueError(
                f"arena of {self.total_bytes} bytes cannot hold {size} more "
                f"({self.used_bytes} are taken)"
            )
        count = math.prod(shape)
        if count == 0:
            return torch.empty(tuple(shape), dtype=dtype)
        flat = torch.frombuffer(self._map, dtype=dtype, count=count, offset=self.used_bytes)
        self.used_bytes += size
        return flat.view(tuple(shape))

    def release(self) -> None:
        """Give every page back; tensors into the arena read zeros from now on.

        The mapping itself is not closed: torch would then crash on a tensor that outlived it. It
        goes when the last reference goes.
        """
        if self._map is not None:
            advise = getattr(mmap, "MADV_DONTNEED", None)
            if advise is not None:  # Windows has none: there the last reference frees the pages
                self._map.madvise(advise)
        self._map = None
        self.released = True


def _anonymous(size: int) -> mmap.mmap:
    # Private, since pages of a shared mapping would survive MADV_DONTNEED.
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    advise = getattr(mmap, "MADV_HUGEPAGE", None)
    if advise is not None and size >= _HUGE_FROM_BYTES:
        # Pages of 2 MiB are taken five hundred times less often than those of 4 KiB, which is most
        # of the time that filling an arena takes. A kernel built without them refuses.
        with contextlib.suppress(OSError):
            mapping.madvise(advise)
    return mapping
