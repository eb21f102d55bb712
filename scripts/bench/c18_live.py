"""C18: live mode on a real server with the demo model, at ten typed characters a second.

A client on a WebSocket of its own types a text over and over, a wish for each character, and says
"shown" for every frame. What is counted: frames that arrive after a wish and are older than it;
jobs in the queue; the time from a wish to its frame, against one frame's own time in the same run;
and the server's resident memory between the first hundred and the last of a thousand frames, each
of another text, of which none is in any cache.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timing import Row

ROOT = Path(__file__).resolve().parents[2]
CHARACTERS_PER_SECOND = 10
TYPED_SECONDS = 30
FRAMES = int(os.environ.get("SDFORGE_BENCH_FRAMES", "1000"))
SETTLED = 100
MOST_GROWTH_MB = 5.0
TEXT = "an owl, twemoji style, blue background"
PATIENCE_SECONDS = 300


@dataclass
class Typist:
    """One client; `frames` are (number, when it came, the server's own seconds)."""

    socket: Any
    asked: dict[int, float] = field(default_factory=dict)
    frames: list[tuple[int, float, float]] = field(default_factory=list)
    superseded: int = 0
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    came: threading.Condition = field(default_factory=threading.Condition)

    def listen(self) -> None:
        """Take all that the server says, until it ends."""
        from websockets.exceptions import ConnectionClosed

        with suppress(ConnectionClosed):
            for message in self.socket:
                if isinstance(message, str):
                    said = json.loads(message)
                    self.superseded = said.get("superseded", self.superseded)
                    if said["type"] == "error":
                        print(said["message"], file=sys.stderr)
                    continue
                now = time.perf_counter()
                length = int.from_bytes(message[:4], "big")
                header = json.loads(message[4 : 4 + length])
                self.socket.send(json.dumps({"type": "shown", "number": header["number"]}))
                with self.came:
                    self.frames.append((header["number"], now, header["frame_ms"] / 1000))
                    self.came.notify_all()

    def wish(self, prompt: str, **values: Any) -> int:
        """Wish for a picture."""
        number = next(self.numbers)
        message = {"type": "draw", "number": number, "prompt": prompt, "seed": 5, **values}
        self.asked[number] = time.perf_counter()
        self.socket.send(json.dumps(message))
        return number

    def wait(self, number: int) -> None:
        """Wait for a frame of a wish or of a newer one."""
        with self.came:
            if not self.came.wait_for(
                lambda: bool(self.frames) and self.frames[-1][0] >= number, PATIENCE_SECONDS
            ):
                raise RuntimeError(f"no frame for wish {number}")


def measure() -> list[Row]:
    """Return the rows on stale frames, latency and memory."""
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as (port, process):
        from websockets.sync.client import connect

        with connect(f"ws://127.0.0.1:{port}/api/v1/live", max_size=None) as socket:
            typist = Typist(socket)
            threading.Thread(target=typist.listen, daemon=True).start()
            for _ in range(6):
                typist.wait(typist.wish(TEXT))
            typing = typed(typist, port)
            memory = grown(typist, process.pid)
    return [*typing, memory]


def typed(typist: Typist, port: int) -> list[Row]:
    """Type for a while; return the rows on stale frames and latency."""
    first, waiting = len(typist.frames), 0
    numbers = []
    began = time.perf_counter()
    for count in range(TYPED_SECONDS * CHARACTERS_PER_SECOND):
        pause = began + count / CHARACTERS_PER_SECOND - time.perf_counter()
        time.sleep(max(pause, 0))
        numbers.append(typist.wish(TEXT[: count % len(TEXT) + 1]))
        if count % CHARACTERS_PER_SECOND == 0:
            state = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/queue"))
            waiting = max(waiting, len(state["waiting"]) + len(state["running"]))
    typist.wait(numbers[-1])
    frames = typist.frames[first:]
    own = statistics.median(seconds for _, _, seconds in frames)
    latencies = sorted(came - typist.asked[number] for number, came, _ in frames)
    p95 = latencies[int(0.95 * (len(latencies) - 1))]
    details = {
        "frames": len(frames), "wishes": len(numbers), "superseded": typist.superseded,
        "jobs_in_queue": waiting, "latency_median_s": statistics.median(latencies),
        "frame_p95_s": sorted(seconds for _, _, seconds in frames)[int(0.95 * (len(frames) - 1))],
    }  # fmt: skip
    if waiting:
        raise RuntimeError(f"{waiting} jobs were in the queue; frames are none")
    typing = f"typing {CHARACTERS_PER_SECOND} characters a second"
    stale = most_stale(typist, numbers, frames)
    return [
        Row(id="C18", name=f"{typing}: stale frames after a wish", peer="one frame", ratio=stale,
            target=1.0, ours=stale, theirs=1.0, unit="frames", details=details),
        Row(id="C18", name=f"{typing}: latency, 95 of 100", peer="one frame, same run",
            ratio=p95 / own, target=1.5, ours=p95, theirs=own, details=details),
    ]  # fmt: skip


def most_stale(typist: Typist, numbers: list[int], frames: list[tuple[int, float, float]]) -> int:
    """Return the most frames that came after a wish and were older than it."""
    worst = 0
    for number in numbers:
        since = [one for one, came, _ in frames if came > typist.asked[number]]
        newer = next((place for place, one in enumerate(since) if one >= number), len(since))
        worst = max(worst, newer)
    return worst


def grown(typist: Typist, pid: int) -> Row:
    """Draw a thousand frames of different texts; return the row on memory."""
    sizes = []
    for number in range(FRAMES):
        typist.wait(typist.wish(f"{TEXT} {number}", steps=1, decoder="small"))
        sizes.append(resident_mb(pid))
    early, late = sizes[SETTLED : 2 * SETTLED], sizes[-SETTLED:]
    growth = statistics.median(late) - statistics.median(early)
    return Row(
        id="C18", name=f"live: growth over {FRAMES} frames of new texts", peer="5 MB",
        ratio=growth / MOST_GROWTH_MB, target=1.0, ours=growth, theirs=MOST_GROWTH_MB, unit="MB",
        details={"resident_mb": sizes[:: max(FRAMES // 50, 1)]},
    )  # fmt: skip


def resident_mb(pid: int) -> float:
    """Return a process's resident memory; of an interpreter with many threads, this is VmRSS."""
    import psutil

    return float(psutil.Process(pid).memory_info().rss) / 2**20


@contextmanager
def served(data: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run a server on a port of its own."""
    command = [sys.executable, "-m", "sdforge", "--nowebui", "--port", "0", "--use-cpu", "all",
               "--data-dir", str(data)]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        yield wait_for_port(process), process
    finally:
        process.terminate()
        process.wait(60)


def wait_for_port(process: subprocess.Popen[str]) -> int:
    """Return the port that the server says it listens on."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"at http://[^:]+:(\d+)", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return int(found[1])
    raise RuntimeError("the server ended before it listened")
