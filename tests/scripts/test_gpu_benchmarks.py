"""The benchmarks of the suite gpu run through without a GPU, so that they will with one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_suite_gpu_can_be_rehearsed_anywhere() -> None:
    command = [sys.executable, "scripts/bench/run.py", "--suite", "gpu", "--tiny"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(G\d+) .*? +([\d.]+) +[\d.]+ (?:ok|SHORT)$", done.stdout, re.MULTILINE)
    assert {name for name, _ in rows} == {"G4", "G5", "G6", "G7", "G8"}
    # Plans hold on the tiny device as on any: no cell ran out of memory, none exceeded its cap.
    failed, worst, _ = (float(ratio) for name, ratio in rows if name == "G7")
    assert failed == 0
    assert worst <= 1


def test_rehearsed_figures_are_neither_kept_nor_checked() -> None:
    command = [sys.executable, "scripts/bench/run.py", "--suite", "gpu", "--tiny", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "not to be kept or checked" in done.stderr
