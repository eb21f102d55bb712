#!/usr/bin/env python3
"""Measure the program against its peers and check the ratios that docs/benchmarks.md promises.

    python scripts/bench/run.py --suite cpu --only C1,C4 --check --json build/bench.json
    python scripts/bench/report.py build/bench.json

Each module `c<number>_<name>.py` (`g…` for the suite gpu) beside this file has a function
`measure() -> list[Row]`. Peers (diffusers' pipelines, k-diffusion, gradio's import) are needed in
this environment only. A benchmark whose peer is not installed is skipped, and says so. Peers that
would change how the program itself behaves where they are installed lie apart, in `build/peers`:

    pip install --no-deps --target build/peers peft
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PEERS = ROOT / "build" / "peers"

# Before torch is loaded: one thread, and no spinning while others work.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "MKL_NUM_THREADS": "1"}
PREFIXES = {"cpu": "c", "gpu": "g"}


def modules_of(suite: str, only: frozenset[str]) -> list[str]:
    """Return the names of the benchmark modules to run, by number."""
    pattern = re.compile(rf"({PREFIXES[suite]}(\d+))_\w+")
    found = []
    for path in HERE.glob("*.py"):
        match = pattern.fullmatch(path.stem)
        if match and (not only or match[1].upper() in only):
            found.append((int(match[2]), path.stem))
    return [name for _, name in sorted(found)]


def measure(name: str) -> list[Any]:
    """Run one module; return its rows."""
    started = time.perf_counter()
    rows: list[Any] = importlib.import_module(name).measure()
    print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return rows


def machine() -> dict[str, Any]:
    """Describe what the figures were measured on, without naming the machine."""
    features = []
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        flags = set(re.findall(r"^flags\s*:\s*(.*)$", cpu.read_text(), re.MULTILINE)[:1][0].split())
        wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16")
        features = [name for name in wanted if name in flags]
    return {
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "features": features,
        "system": platform.system(),
        "python": platform.python_version(),
        # Above the number of cores others were at work too, and figures that count several
        # threads or processes of ours suffer.
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def commit() -> str:
    """Return the short hash of the commit, marked when files differ from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        short = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        )
        changed = subprocess.run([*git, "status", "--porcelain", "--", "sdforge", "scripts/bench"],
                                 capture_output=True, text=True)  # fmt: skip
    except OSError:
        return ""
    return short.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def main(arguments: list[str] | None = None) -> int:
    """Run benchmarks; return 1 when one failed, or with --check when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--suite", choices=sorted(PREFIXES), default="cpu")
    parser.add_argument("--only", default="", help="ids to run, such as C1,C4")
    parser.add_argument("--check", action="store_true", help="fail when a target is missed")
    parser.add_argument(
        "--slack", type=float, default=1.0, metavar="FACTOR",
        help="with --check: by how much a target may be missed, for machines that are not quiet",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--tiny", action="store_true", help="rehearse the suite gpu, anywhere; figures mean nothing"
    )
    options = parser.parse_args(arguments)
    if options.tiny and (options.suite != "gpu" or options.json or options.check):
        parser.error("--tiny is for --suite gpu, and its figures are not to be kept or checked")
    os.environ.update(ENVIRONMENT | ({"BENCH_TINY": "1"} if options.tiny else {}))
    sys.path[:0] = [str(HERE), str(ROOT)]
    sys.path.append(str(PEERS))

    only = frozenset(part.strip().upper() for part in options.only.split(",") if part.strip())
    names = modules_of(options.suite, only)
    unknown = only - {name.split("_")[0].upper() for name in names}
    if unknown:
        parser.error(f"no such benchmark in suite {options.suite}: {', '.join(sorted(unknown))}")
    host = machine()
    rows, failed = [], False
    for name in names:
        try:
            rows += measure(name)
        except ModuleNotFoundError as missing:
            print(f"{name}: skipped, {missing.name} is not installed", file=sys.stderr)
            failed |= bool(only) or (missing.name or "").startswith("sdforge")
        except Exception:  # noqa: BLE001 (one benchmark must not hide the others' figures)
            traceback.print_exc()
            failed = True

    if options.json:
        figures = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "commit": commit(),
            "suite": options.suite,
            "machine": host,
            "rows": [{**asdict(row), "ok": row.is_ok} for row in rows],
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(line(row))
    short = [row for row in rows if row.ratio > row.target * options.slack]
    return 1 if failed or (options.check and short) else 0


def line(row: Any) -> str:
    """Return `name ratio target ok|SHORT`."""
    verdict = "ok" if row.is_ok else "SHORT"
    return f"{row.id} {row.name:<48} {row.ratio:7.3f} {row.target:7.3f} {verdict}"


if __name__ == "__main__":
    sys.exit(main())
