from __future__ import annotations

import mmap
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdforge.memory.monitor import (
    HISTORY,
    MemoryMonitor,
    linear_slope,
    open_mappings,
    process_memory,
    rss_anon,
    sample,
)

MIB = 2**20
REPORT: dict[str, Any] = {
    "total_bytes": 1000, "own_bytes": 300, "peak_bytes": 400, "foreign_bytes": 50,
    "ring_bytes": 20, "pinned_bytes": 30,
    "components": [
        {"role": "denoiser", "name": "x", "host_bytes": 500, "device_bytes": 280},
        {"role": "vae", "name": "x", "host_bytes": 60, "device_bytes": 0},
    ],
}  # fmt: skip


def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("waited in vain")


def test_a_sample_tells_who_holds_what() -> None:
    found = sample(REPORT)
    assert found.on_device == {"denoiser of x": 280, "vae of x": 0, "ring": 20}
    assert found.on_host == {"denoiser of x": 500, "vae of x": 60, "pinned": 30}
    assert (found.device_total, found.device_own, found.device_foreign) == (1000, 300, 50)
    assert found.process.resident > MIB
    assert found.to_json()["process"]["anonymous"] == found.process.anonymous


def test_before_anything_was_loaded_there_is_the_process_alone() -> None:
    found = sample({})
    assert found.on_device == {}
    assert found.process.anonymous > 0


@pytest.mark.skipif(sys.platform != "linux", reason="kinds of pages are Linux's")
def test_private_pages_count_and_pages_of_files_do_not(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"\1" * 40 * MIB)
    before = rss_anon()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) == len(mapped) // mmap.PAGESIZE
        assert process_memory().file > 40 * MIB
        assert rss_anon() - before < 10 * MIB
        assert open_mappings(str(path)) == [str(path)]
    assert open_mappings(str(path)) == []
    block = bytearray(40 * MIB)
    assert rss_anon() - before > 30 * MIB
    del block


@given(
    st.floats(-100, 100), st.floats(-1000, 1000), st.integers(2, 50),
)  # fmt: skip
def test_the_slope_of_a_line_is_its_own(slope: float, start: float, count: int) -> None:
    values = [start + slope * place for place in range(count)]
    assert linear_slope(values) == pytest.approx(slope, abs=1e-6)
    assert linear_slope(values[:1]) == 0.0


def test_nothing_is_sampled_while_nobody_looks_and_nothing_runs() -> None:
    monitor = MemoryMonitor(lambda: REPORT, lambda: False, period=0.01, watched=0.05)
    assert not monitor.is_sampling
    assert monitor.history() == []
    until(lambda: not monitor.is_sampling)
    assert monitor.history()
    monitor.close()


def test_a_job_is_sampled_to_its_end_without_anybody_looking() -> None:
    busy = threading.Event()
    busy.set()
    monitor = MemoryMonitor(lambda: REPORT, busy.is_set, period=0.01, watched=0.0)
    monitor.wake()
    until(lambda: len(monitor._samples) > 5)
    busy.clear()
    until(lambda: not monitor.is_sampling)
    monitor.close()


def test_the_history_is_bounded() -> None:
    monitor = MemoryMonitor(dict, lambda: True, period=0.0)
    monitor.wake()
    until(lambda: len(monitor._samples) == HISTORY)
    threading.Event().wait(0.05)
    assert len(monitor.history()) == HISTORY
    monitor.close()
    assert not monitor._thread or not monitor._thread.is_alive()
