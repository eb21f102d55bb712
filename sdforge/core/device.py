"""What the machine has: accelerator, memory, precisions.

`probe()` is called by the launcher or the model thread, never on import: it loads torch and may
create a CUDA context.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """One compute device. `kind` is torch's device type: 'cuda', 'mps', 'xpu' or 'cpu'."""

    kind: str
    index: int
    name: str
    total_bytes: int
    supports_fp16: bool
    supports_bf16: bool

    @property
    def torch_name(self) -> str:
        """The string that `torch.device()` takes."""
        return self.kind if self.kind in ("cpu", "mps") else f"{self.kind}:{self.index}"


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
        return DeviceInfo(
            kind="mps",
            index=0,
            name="Apple GPU",
            total_bytes=host_total_bytes(),
            supports_fp16=True,
            supports_bf16=False,
        )
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
