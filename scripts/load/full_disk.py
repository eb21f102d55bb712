#!/usr/bin/env python3
"""Fill a live server's disk, see what it says, make room again, and see it work.

    python scripts/load/full_disk.py

The data folder is a small file system in memory where this program may mount one (root on Linux);
elsewhere the limit on the size of files (RLIMIT_FSIZE) of the running server is lowered and raised
again, which fails its writes likewise. It must hold, again and again:

- while the disk is full, what has to be stored is refused with 507 and a sentence that says why;
  what only reads is answered as ever, and the server lives;
- as soon as there is room the next job is drawn and saved, and nothing is left half written.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.load.kills import (  # noqa: E402 - needs the path above
    damaged_database,
    damaged_pictures,
    make_checkpoint,
)
from scripts.load.serving import ServerProcess, ask  # noqa: E402

_MIB = 1 << 20
# The checkpoint, the database, some pictures.
_DISK_BYTES = 48 * _MIB
_STORES = (
    ("POST", "/sdapi/v1/txt2img", {"prompt": "a cat", "steps": 1, "width": 256, "height": 256}),
    ("POST", "/api/v1/jobs/txt2img", {"prompt": "a cat", "steps": 1}),
    ("POST", "/sdapi/v1/options", {"jpeg_quality": 77}),
    ("POST", "/api/v1/styles", {"name": "new", "prompt": "a style", "negative_prompt": ""}),
)
_READS = ("/healthz", "/sdapi/v1/progress", "/sdapi/v1/options", "/api/v1/queue",
          "/api/v1/history", "/api/v1/jobs")  # fmt: skip
OK, FULL = 200, 507


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the disk some times; return 1 when the server did not bear it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--by-limit", action="store_true", help="do not mount, even if I may")
    options = parser.parse_args(arguments)
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        parent = Path(folder)
        with disk(parent, may_mount=not options.by_limit) as is_mounted:
            data = parent / "disk" / "data"
            make_checkpoint(data)
            print("the disk is", "a file system in memory" if is_mounted else "limited files")
            server = ServerProcess(data)
            # Not on the disk that fills up.
            server.log = parent / "server.log"
            with server:
                faults += works(server)
                for number in range(options.times):
                    with full(server, parent / "disk", is_mounted=is_mounted):
                        found = refusals(server)
                    found += works(server)
                    faults += [f"time {number + 1}: {fault}" for fault in found]
                    print(f"filled {number + 1} times, {len(faults)} faults", flush=True)
            faults += [*damaged_database(data), *damaged_pictures(data)]
    print("\n".join(faults) or "refused while full, drawn when there was room, nothing damaged")
    return 1 if faults else 0


def refusals(server: ServerProcess) -> list[str]:
    """Ask a server on a full disk for everything; say what it did not answer as it should."""
    faults = []
    client = server.client()
    for method, path, body in _STORES:
        status, data = client.ask(method, path, body)
        said = json.loads(data).get("errors", "")
        print(f"  {path}: {status} {said}")
        if status != FULL or not said:
            faults.append(f"{path} on a full disk: {status} {data[:300]!r}")
    for path in _READS:
        status, data = client.ask("GET", path)
        if status != OK:
            faults.append(f"{path} on a full disk: {status} {data[:300]!r}")
    client.close()
    return faults if server.is_alive else [*faults, f"the server ended: {server.last_words()}"]


def works(server: ServerProcess) -> list[str]:
    """Draw and save a picture and change a setting; say what did not work."""
    body: dict[str, Any] = {"prompt": "a cat", "steps": 1, "width": 256, "height": 256,
                            "save_images": True}  # fmt: skip
    before = ask(server, "GET", "/api/v1/history")["total"]
    try:
        answer = ask(server, "POST", "/sdapi/v1/txt2img", body)
        ask(server, "POST", "/sdapi/v1/options", {"jpeg_quality": 80})
    except RuntimeError as error:
        return [f"with room: {error}"]
    after = ask(server, "GET", "/api/v1/history")["total"]
    if len(answer["images"]) != 1 or after != before + 1:
        return [f"with room: {len(answer['images'])} pictures, {before} then {after} in history"]
    return []


# --- the disk ------------------------------------------------------------------------------------


@contextlib.contextmanager
def disk(parent: Path, *, may_mount: bool) -> Iterator[bool]:
    """Make the folder `disk`, a small file system if possible; yield whether it is one."""
    place = parent / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(place)]
    is_mounted = (
        may_mount
        and sys.platform == "linux"
        and os.geteuid() == 0
        and subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0
    )
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextlib.contextmanager
def full(server: ServerProcess, place: Path, *, is_mounted: bool) -> Iterator[None]:
    """Leave the server no room on its disk for the length of the context."""
    if is_mounted:
        ballast = place / "ballast"
        fill(ballast)
        try:
            yield
        finally:
            ballast.unlink()
        return
    assert server.process is not None
    pid = server.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def fill(ballast: Path) -> None:
    """Write until not one more byte can be written."""
    size = 1 * _MIB
    with ballast.open("wb", buffering=0) as file:
        while size:
            try:
                # A write may end early, and say so, before one fails.
                file.write(b"\0" * size)
            except OSError:
                size //= 2


if __name__ == "__main__":
    sys.exit(main())
