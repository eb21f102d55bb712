"""Devices behind one small protocol: the host, torch accelerators and a simulated one.

Only the model thread calls these. A device hands out copies of host tensors and counts nothing
itself but what its driver reports.
"""

from __future__ import annotations

import sys
from typing import Protocol

import torch

from sdforge.core.device import DeviceInfo
from sdforge.memory.budget import DEVICE_RESERVE_BYTES, WINDOWS_RESERVE_BYTES


class Device(Protocol):
    """Where networks compute."""

    compute_device: torch.device
    total_bytes: int
    reserve_bytes: int
    is_host: bool

    def upload(self, master: torch.Tensor) -> torch.Tensor:
        """Return a copy of a host tensor on the device; raises torch's out-of-memory error."""

    def foreign_bytes(self) -> int:
        """Return what others hold of the device's memory."""

    def own_bytes(self) -> int:
        """Return what this process holds in tensors."""

    def peak_own_bytes(self) -> int:
        """Return the most that this process has held in tensors."""

    def empty_cache(self) -> None:
        """Give memory that no tensor uses back to the driver."""


class HostDevice:
    """The CPU: weights are used where they lie, nothing is copied."""

    is_host = True
    reserve_bytes = 0

    def __init__(self, total_bytes: int) -> None:
        self.compute_device = torch.device("cpu")
        self.total_bytes = total_bytes

    def upload(self, master: torch.Tensor) -> torch.Tensor:
        """Return the master itself."""
        return master

    def foreign_bytes(self) -> int:
        """Return 0: the system pages, so other programs take nothing away for good."""
        return 0

    def own_bytes(self) -> int:
        """Return 0: there are no device copies."""
        return 0

    def peak_own_bytes(self) -> int:
        """Return 0: there never were."""
        return 0

    def empty_cache(self) -> None:
        """Do nothing: there is no device cache."""


class TorchDevice:
    """A CUDA, ROCm, XPU or MPS device through torch."""

    is_host = False

    def __init__(self, info: DeviceInfo) -> None:
        self.compute_device = torch.device(info.torch_name)
        self.total_bytes = info.total_bytes
        windows = sys.platform == "win32"
        self.reserve_bytes = WINDOWS_RESERVE_BYTES if windows else DEVICE_RESERVE_BYTES

    def upload(self, master: torch.Tensor) -> torch.Tensor:
        """Copy a host tensor to the device."""
        return master.to(self.compute_device, copy=True)

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

    def empty_cache(self) -> None:
        """Return cached blocks to the driver."""
        if self.compute_device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.compute_device.type == "mps":
            torch.mps.empty_cache()


def open_device(info: DeviceInfo) -> Device:
    """Return the device that `info` describes."""
    return HostDevice(info.total_bytes) if info.kind == "cpu" else TorchDevice(info)
