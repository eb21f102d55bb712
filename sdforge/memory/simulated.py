"""An accelerator made of host memory, with a hard limit in bytes.

Copies are real tensors on the CPU; their bytes are charged until the last reference is gone, and
going over the limit raises torch's own out-of-memory error. So placement, eviction and recovery are
tested on every machine.
"""

from __future__ import annotations

import weakref

import torch


class SimulatedDevice:
    """A device of `total_bytes` that computes on the CPU and counts every upload."""

    is_host = False
    reserve_bytes = 0

    def __init__(self, total_bytes: int) -> None:
        self.compute_device = torch.device("cpu")
        self.total_bytes = total_bytes
        self.peak_bytes = 0
        self.uploaded_bytes = 0
        self._live_bytes = 0

    def upload(self, master: torch.Tensor) -> torch.Tensor:
        """Copy a tensor and charge it.

        Raises:
            torch.OutOfMemoryError: the copy would exceed the limit.
        """
        size = master.numel() * master.element_size()
        if self._live_bytes + size > self.total_bytes:
            raise torch.OutOfMemoryError(
                f"simulated device: tried to allocate {size} bytes, {self._live_bytes} of "
                f"{self.total_bytes} are in use"
            )
        copy = master.clone()
        self._live_bytes += size
        self.uploaded_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        weakref.finalize(copy.untyped_storage(), self._give_back, size)
        return copy

    def _give_back(self, size: int) -> None:
        self._live_bytes -= size

    def foreign_bytes(self) -> int:
        """Return 0: nobody else uses it."""
        return 0

    def own_bytes(self) -> int:
        """Return the bytes of live copies."""
        return self._live_bytes

    def peak_own_bytes(self) -> int:
        """Return the most bytes of copies that were alive at once."""
        return self.peak_bytes

    def empty_cache(self) -> None:
        """Do nothing: a simulated device caches nothing."""
