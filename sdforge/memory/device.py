"""Devices behind one small protocol: the host, torch accelerators and a simulated one.

Only the model thread calls these. A device hands out copies of host tensors and counts nothing
itself but what its driver reports.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch

from sdforge.core.device import DeviceInfo
from sdforge.memory.budget import DEVICE_RESERVE_BYTES, WINDOWS_RESERVE_BYTES
from sdforge.memory.pinned import PinnedBlocks
from sdforge.memory.simulated import SimulatedDevice
from sdforge.memory.streams import CopyStream, ImmediateCopies, SideStream


class Device(Protocol):
    """Where networks compute."""

    compute_device: torch.device
    total_bytes: int
    reserve_bytes: int
    is_host: bool
    can_stream: bool
    counts_peaks: bool

    def upload(self, master: torch.Tensor) -> torch.Tensor:
        """Return a copy of a host tensor on the device; raises torch's out-of-memory error."""

    def allocate(self, size: int) -> torch.Tensor:
        """Return `size` bytes of the device, uninitialised."""

    def copy_stream(self) -> CopyStream:
        """Return the copy engine."""

    def pinned_blocks(self) -> PinnedBlocks | None:
        """Return where page-locked host memory is kept; None where it does not help."""

    def computing(self) -> AbstractContextManager[object]:
        """Return what surrounds the running of networks."""

    def manage(self, masters: Sequence[torch.Tensor]) -> None:
        """Learn which host tensors no network may compute with."""

    def foreign_bytes(self) -> int:
        """Return what others hold of the device's memory."""

    def own_bytes(self) -> int:
        """Return what this process holds in tensors."""

    def peak_own_bytes(self) -> int:
        """Return the most that this process has held in tensors since the last reset."""

    def reset_peak(self) -> None:
        """Let the peak be what is held now."""

    def empty_cache(self) -> None:
        """Give memory that no tensor uses back to the driver."""


class HostDevice:
    """The CPU: weights are used where they lie, nothing is copied."""

    is_host = True
    can_stream = False
    counts_peaks = False
    reserve_bytes = 0

    def __init__(self, total_bytes: int) -> None:
        self.compute_device = torch.device("cpu")
        self.total_bytes = total_bytes

    def upload(self, master: torch.Tensor) -> torch.Tensor:
        """Return the master itself."""
        return master

    def allocate(self, size: int) -> torch.Tensor:
        """Return host memory."""
        return torch.empty(size, dtype=torch.uint8)

    def copy_stream(self) -> CopyStream:
        """Return one that copies at once."""
        return ImmediateCopies()

    def pinned_blocks(self) -> PinnedBlocks | None:
        """Return None: there is nowhere to copy to."""
        return None

    def computing(self) -> AbstractContextManager[object]:
        """Return nothing special."""
        return nullcontext()

    def manage(self, masters: Sequence[torch.Tensor]) -> None:
        """Do nothing: networks compute with the masters."""

    def foreign_bytes(self) -> int:
        """Return 0: the system pages, so other programs take nothing away for good."""
        return 0

    def own_bytes(self) -> int:
        """Return 0: there are no device copies."""
        return 0

    def peak_own_bytes(self) -> int:
        """Return 0: there never were."""
        return 0

    def reset_peak(self) -> None:
        """Do nothing."""

    def empty_cache(self) -> None:
        """Do nothing: there is no device cache."""


class TorchDevice:
    """A CUDA, ROCm, XPU or MPS device through torch."""

    is_host = False

    def __init__(self, info: DeviceInfo) -> None:
        self.compute_device = torch.device(info.torch_name)
        self.total_bytes = info.total_bytes
        windows = sys.platform == "win32"
        usual = WINDOWS_RESERVE_BYTES if windows else DEVICE_RESERVE_BYTES
        self.reserve_bytes = max(usual, info.reserve_bytes)
        # Apple's GPUs share the host's memory: a second copy there saves nothing.
        self.can_stream = info.kind in ("cuda", "xpu")
        self.counts_peaks = info.kind == "cuda"
        self._pinned = PinnedBlocks() if info.kind == "cuda" else None

    def upload(self, master: torch.Tensor) -> torch.Tensor:
        """Copy a host tensor to the device."""
        return master.to(self.compute_device, copy=True)

    def allocate(self, size: int) -> torch.Tensor:
        """Return a block of the device."""
        return torch.empty(size, dtype=torch.uint8, device=self.compute_device)

    def copy_stream(self) -> CopyStream:
        """Return a side stream of its own."""
        if not self.can_stream:
            return ImmediateCopies()
        return SideStream(self.compute_device)

    def pinned_blocks(self) -> PinnedBlocks | None:
        """Return the one store of page-locked memory, where the driver offers it."""
        return self._pinned

    def computing(self) -> AbstractContextManager[object]:
        """Return nothing special."""
        return nullcontext()

    def manage(self, masters: Sequence[torch.Tensor]) -> None:
        """Do nothing: torch itself refuses to mix devices."""

    def foreign_bytes(self) -> int:
        """Return total − driver-free − what this process reserved; 0 where no driver tells."""
        if self.compute_device.type != "cuda":
            return 0
        free, total = torch.cuda.mem_get_info(self.compute_device)
        return max(total - free - torch.cuda.memory_reserved(self.compute_device), 0)

    def own_bytes(self) -> int:
        """Return the bytes in live tensors of this process."""
        if self.compute_device.type == "cuda":
            return torch.cuda.memory_allocated(self.compute_device)
        if self.compute_device.type == "mps":
            return torch.mps.current_allocated_memory()
        return 0

    def peak_own_bytes(self) -> int:
        """Return the peak of live tensors; what is held now where no driver counts peaks."""
        if self.compute_device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.compute_device)
        return self.own_bytes()

    def reset_peak(self) -> None:
        """Let the driver's peak start anew."""
        if self.compute_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.compute_device)

    def empty_cache(self) -> None:
        """Return cached blocks to the driver."""
        if self.compute_device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.compute_device.type == "mps":
            torch.mps.empty_cache()


def open_device(info: DeviceInfo) -> Device:
    """Return the device that `info` describes; a cap on its memory holds for torch as well."""
    if info.kind == "cpu":
        return HostDevice(info.total_bytes)
    if info.kind == "simulated":
        return SimulatedDevice(info.total_bytes)
    if info.limit_bytes and info.kind == "cuda":
        card = torch.cuda.get_device_properties(info.index).total_memory
        torch.cuda.set_per_process_memory_fraction(info.limit_bytes / card, info.index)
    return TorchDevice(info)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on any kind of device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text or "alloc_cpu" in text
    )
