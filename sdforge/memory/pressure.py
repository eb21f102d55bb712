"""How much main memory there is left, and when models have to give some back.

Reads what the system says (free memory, the limit of a container, stall times); decides nothing
about models. `store.py` asks it, on the model thread, and evicts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import psutil

_GIB = 1024**3
_CGROUP = Path("/sys/fs/cgroup")
_PSI = Path("/proc/pressure/memory")
# Shares of all memory: below the first, give back until the second is free. On large machines a
# share would be far more than anybody needs at once.
LOW_SHARE, HIGH_SHARE = 0.10, 0.15
_MOST_LOW, _MOST_HIGH = 4 * _GIB, 6 * _GIB
# Percent of the last ten seconds in which some task waited for memory: the machine is thrashing,
# whatever its count of free pages says.
STALL_PERCENT = 20.0


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    """Main memory at one moment, in bytes; `stall_percent` is 0 where the system does not tell."""

    total: int
    available: int
    swap_free: int = 0
    stall_percent: float = 0.0

    @property
    def low_mark(self) -> int:
        """Less available than this is pressure."""
        return min(int(self.total * LOW_SHARE), _MOST_LOW)

    @property
    def high_mark(self) -> int:
        """So much is to be available when the pressure has been answered."""
        return min(int(self.total * HIGH_SHARE), _MOST_HIGH)

    @property
    def shortage(self) -> int:
        """Bytes to give back now; 0 between the marks, so that nothing swings to and fro."""
        if self.available >= self.low_mark and self.stall_percent < STALL_PERCENT:
            return 0
        return max(self.high_mark - self.available, 0)


def read_host_memory(cgroup: Path = _CGROUP, psi: Path = _PSI) -> HostMemory:
    """Return the memory of this machine, or of the container where that has less."""
    machine = psutil.virtual_memory()
    total, available = int(machine.total), int(machine.available)
    swap_free = int(psutil.swap_memory().free)
    limit = _number(cgroup / "memory.max")
    used = _number(cgroup / "memory.current")
    if limit is not None and used is not None and limit < total:
        # Cached files count as used there, and leave when the room is needed.
        used -= _cached_bytes(cgroup / "memory.stat")
        total, available = limit, max(min(available, limit - used), 0)
        swap_limit = _number(cgroup / "memory.swap.max")
        swap_used = _number(cgroup / "memory.swap.current") or 0
        if swap_limit is not None:
            swap_free = max(min(swap_free, swap_limit - swap_used), 0)
    return HostMemory(
        total=total, available=available, swap_free=swap_free, stall_percent=_stall(psi)
    )


def automatic_budget(memory: HostMemory, held_bytes: int) -> int:
    """Return how many bytes stored models may take when the user does not say.

    min(50 % of all − 2 GiB, what would be available without them − 2 GiB), never below 0.
    """
    half = memory.total // 2 - 2 * _GIB
    left = memory.available + held_bytes - 2 * _GIB
    return max(min(half, left), 0)


def _number(file: Path) -> int | None:
    """Return the number in a file of the control group; None for 'max' and where there is none."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _cached_bytes(file: Path) -> int:
    try:
        rows = (line.split() for line in file.read_text(encoding="ascii").splitlines())
        stat = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}
    except OSError:
        return 0
    return stat.get("inactive_file", 0) + stat.get("active_file", 0)


def _stall(file: Path) -> float:
    """Return `some avg10` of Linux' pressure stall information."""
    try:
        first = file.read_text(encoding="ascii").split("\n", 1)[0]
    except OSError:
        return 0.0
    fields = dict(part.split("=", 1) for part in first.split() if "=" in part)
    try:
        value = float(fields.get("avg10", "0"))
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
