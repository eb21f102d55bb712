"""What the machine has: accelerator, memory, precisions.

`probe()` loads torch and may create a CUDA context, so only the model thread calls it. `survey()`
asks drivers and the system without torch, in some 50 ms, for advice and estimates before that.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_MIB = 1024 * 1024
_GIB = 1024 * _MIB
# From this compute capability on, NVIDIA cards compute in bf16.
_BF16_CAPABILITY = 8.0
_QUERY_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """One compute device. `kind` is torch's device type: 'cuda', 'mps', 'xpu' or 'cpu'.

    'simulated' is an accelerator made of host memory, for tests and for trying out small cards.
    `total_bytes` is what may be used: less than the card has when `limit_bytes` caps it.
    `reserve_bytes` is what the user wants left to other programs.
    """

    kind: str
    index: int
    name: str
    total_bytes: int
    supports_fp16: bool
    supports_bf16: bool
    limit_bytes: int = 0
    reserve_bytes: int = 0

    @property
    def torch_name(self) -> str:
        """The string that `torch.device()` takes."""
        if self.kind == "simulated":
            return "cpu"
        return self.kind if self.kind in ("cpu", "mps") else f"{self.kind}:{self.index}"

    @property
    def is_accelerator(self) -> bool:
        """Whether it has memory apart from the host's budget."""
        return self.kind != "cpu"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A device with the memory that was free when it was looked at; None where nobody tells."""

    device: DeviceInfo
    free_bytes: int | None
    host_total_bytes: int
    host_available_bytes: int


def limited(info: DeviceInfo, flags: Mapping[str, Any] | None = None) -> DeviceInfo:
    """Return the device as flags let it be used.

    Args:
        info: as found.
        flags: `vram_limit` (MiB) plays a smaller card, `reserve_vram` (GB) leaves memory to other
            programs, `simulate_device` (MiB) makes an accelerator out of host memory.
    """
    flags = flags or {}
    if size := flags.get("simulate_device"):
        info = DeviceInfo(
            kind="simulated",
            index=0,
            name=f"simulated device of {size} MiB",
            total_bytes=int(size) * _MIB,
            # Its arithmetic is the host's.
            supports_fp16=False,
            supports_bf16=False,
        )
    if not info.is_accelerator:
        return info
    if limit := flags.get("vram_limit"):
        limit_bytes = min(int(limit) * _MIB, info.total_bytes)
        info = replace(info, total_bytes=limit_bytes, limit_bytes=limit_bytes)
    if reserve := flags.get("reserve_vram"):
        info = replace(info, reserve_bytes=int(float(reserve) * _GIB))
    return info


def probe(*, force_cpu: bool = False, device_id: int | None = None) -> DeviceInfo:
    """Return the device that pictures will be made on: the first accelerator, else the CPU."""
    import torch

    index = device_id or 0
    if not force_cpu and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(index)
        return DeviceInfo(
            kind="cuda",
            index=index,
            name=properties.name,
            total_bytes=properties.total_memory,
            supports_fp16=True,
            supports_bf16=torch.cuda.is_bf16_supported(),
        )
    if not force_cpu and torch.backends.mps.is_available():
        return _apple()
    return _cpu()


def survey(
    *, force_cpu: bool = False, device_id: int | None = None, flags: Mapping[str, Any] | None = None
) -> Machine:
    """Return what `probe` would find, and what is free, without loading torch.

    NVIDIA's cards are found by their driver's tool; others than NVIDIA's and Apple's count as CPU
    here, until torch is asked.
    """
    import psutil

    info, free = _cpu(), None
    if not force_cpu:
        if card := _nvidia(device_id or 0):
            info, free = card
        elif sys.platform == "darwin" and platform.machine() == "arm64":
            info = _apple()
    limit = limited(info, flags)
    if free is not None and limit.limit_bytes:
        free = max(min(free - (info.total_bytes - limit.total_bytes), limit.total_bytes), 0)
    memory = psutil.virtual_memory()
    total = host_total_bytes()
    return Machine(
        device=limit,
        free_bytes=None if limit.kind == "simulated" else free,
        host_total_bytes=total,
        host_available_bytes=min(int(memory.available), total),
    )


def _cpu() -> DeviceInfo:
    # CPUs without native half precision (AVX2) run fp16 and bf16 some 50 times slower than fp32,
    # so neither is offered there.
    return DeviceInfo(
        kind="cpu",
        index=0,
        name="CPU",
        total_bytes=host_total_bytes(),
        supports_fp16=False,
        supports_bf16=False,
    )


def _apple() -> DeviceInfo:
    return DeviceInfo(
        kind="mps",
        index=0,
        name="Apple GPU",
        total_bytes=host_total_bytes(),
        supports_fp16=True,
        supports_bf16=False,
    )


def _nvidia(index: int) -> tuple[DeviceInfo, int] | None:
    """Ask NVIDIA's driver tool; None without a card, or without an answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    fields = "name,memory.total,memory.free,compute_cap"
    command = [tool, f"--id={index}", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return _read_nvidia(answer.stdout, index)


def _read_nvidia(text: str, index: int) -> tuple[DeviceInfo, int] | None:
    try:
        name, total, free, capability = (part.strip() for part in text.split("\n")[0].split(","))
        info = DeviceInfo(
            kind="cuda",
            index=index,
            name=name,
            total_bytes=int(total) * _MIB,
            supports_fp16=True,
            supports_bf16=float(capability) >= _BF16_CAPABILITY,
        )
        return info, int(free) * _MIB
    except ValueError:
        return None


def host_total_bytes() -> int:
    """Return the size of main memory in bytes, honouring a cgroup's limit."""
    import psutil

    total = int(psutil.virtual_memory().total)
    limit = _cgroup_limit()
    return min(total, limit) if limit else total


def _cgroup_limit() -> int | None:
    path = Path("/sys/fs/cgroup/memory.max")
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
