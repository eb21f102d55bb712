"""Bytes by owner over time, and the tools that tests of leaks measure with. No torch.

A sample is taken once a second, but only while a job runs or somebody has looked lately: an idle
server has no thread for it. The history is bounded. `rss_anon` is what leaks show in: mapped model
files count in the resident size too, and are the system's to keep or drop.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PERIOD_SECONDS = 1.0
# Ten minutes at one sample a second.
HISTORY = 600
# How long after a look the sampling goes on.
WATCHED_SECONDS = 10.0
# Figures of the memory report that belong to no component, by where the bytes lie.
_DEVICE_SHARED = ("ring", "cast", "activation")
_HOST_SHARED = ("pinned", "cache", "store")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class ProcessMemory:
    """This process's memory in bytes: private pages, pages of files, shared and swapped ones."""

    anonymous: int
    file: int
    shared: int
    swapped: int

    @property
    def resident(self) -> int:
        """All that lies in main memory."""
        return self.anonymous + self.file + self.shared


def process_memory() -> ProcessMemory:
    """Return this process's memory; where the system does not tell kinds apart, all is anonymous.

    Linux only tells them apart, in /proc/self/status.
    """
    if _STATUS.exists():
        rows = dict(
            line.split(":", 1)
            for line in _STATUS.read_text(encoding="utf-8").splitlines()
            if line.startswith(("Rss", "VmSwap"))
        )
        kib = {name: int(value.split()[0]) * 1024 for name, value in rows.items()}
        return ProcessMemory(
            anonymous=kib["RssAnon"],
            file=kib["RssFile"],
            shared=kib["RssShmem"],
            swapped=kib["VmSwap"],
        )
    import psutil

    return ProcessMemory(
        anonymous=int(psutil.Process().memory_info().rss), file=0, shared=0, swapped=0
    )


def rss_anon() -> int:
    """Return the private resident bytes of this process: the figure that must not climb."""
    return process_memory().anonymous


def open_mappings(part: str = "") -> list[str]:
    """Return the files that are mapped into this process and whose path contains `part`."""
    import psutil

    found = psutil.Process().memory_maps(grouped=True)
    return sorted(row.path for row in found if part in row.path)


def linear_slope(values: Sequence[float]) -> float:
    """Return the slope of the least-squares line through values at 0, 1, 2…; 0 for fewer than 2."""
    count = len(values)
    if count < 2:
        return 0.0
    middle, mean = (count - 1) / 2, sum(values) / count
    spread = sum((place - middle) ** 2 for place in range(count))
    return sum((place - middle) * (value - mean) for place, value in enumerate(values)) / spread


@dataclass(frozen=True, kw_only=True)
class MemorySample:
    """One moment; `time` is seconds since the epoch, everything else bytes.

    `on_device` and `on_host` are by owner: 'denoiser of x', 'ring'….
    """

    time: float
    process: ProcessMemory
    on_device: Mapping[str, int]
    on_host: Mapping[str, int]
    device_total: int
    device_own: int
    device_peak: int
    device_foreign: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def sample(report: Mapping[str, Any]) -> MemorySample:
    """Return the present moment from a memory report, which may be empty."""
    parts = {f"{part['role']} of {part['name']}": part for part in report.get("components", ())}
    return MemorySample(
        time=time.time(),
        process=process_memory(),
        on_device=_owners(report, parts, "device_bytes", _DEVICE_SHARED),
        on_host=_owners(report, parts, "host_bytes", _HOST_SHARED),
        device_total=int(report.get("total_bytes", 0)),
        device_own=int(report.get("own_bytes", 0)),
        device_peak=int(report.get("peak_bytes", 0)),
        device_foreign=int(report.get("foreign_bytes", 0)),
    )


def _owners(
    report: Mapping[str, Any], parts: Mapping[str, Any], key: str, shared: Sequence[str]
) -> dict[str, int]:
    held = {name: int(part[key]) for name, part in parts.items()}
    common = {name: int(report.get(f"{name}_bytes", 0)) for name in shared}
    return held | {name: size for name, size in common.items() if size}


class MemoryMonitor:
    """Samples while it is worth it; safe to use from several threads."""

    def __init__(
        self,
        read: Callable[[], Mapping[str, Any]],
        is_busy: Callable[[], bool],
        *,
        period: float = PERIOD_SECONDS,
        watched: float = WATCHED_SECONDS,
    ) -> None:
        """Start nothing yet.

        Args:
            read: returns the memory report.
            is_busy: whether a job runs.
            period: seconds between samples.
            watched: seconds that sampling goes on after a look.
        """
        self._read, self._is_busy = read, is_busy
        self._period, self._watched = period, watched
        self._samples: deque[MemorySample] = deque(maxlen=HISTORY)
        self._lock = threading.Lock()
        self._wanted_until = 0.0
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def is_sampling(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None

    def now(self) -> MemorySample:
        """Return the present moment, without adding it to the history."""
        return sample(self._read())

    def history(self) -> list[MemorySample]:
        """Return the samples so far, oldest first, and go on sampling: somebody is looking."""
        self._wake(self._watched)
        with self._lock:
            return list(self._samples)

    def wake(self) -> None:
        """A job begins: sample until it ends."""
        self._wake(self._period)

    def close(self) -> None:
        """End the sampling."""
        with self._lock:
            self._stopping.set()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _wake(self, seconds: float) -> None:
        with self._lock:
            self._wanted_until = max(self._wanted_until, time.monotonic() + seconds)
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(
                    target=self._loop, name="sdforge-monitor", daemon=True
                )
                self._thread.start()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            found = self.now()
            with self._lock:
                self._samples.append(found)
            self._stopping.wait(self._period)
            with self._lock:
                if not self._is_busy() and time.monotonic() > self._wanted_until:
                    self._thread = None
                    return
