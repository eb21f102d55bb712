#!/usr/bin/env python3
"""Kill a busy server fifty times with SIGKILL, and look each time what is left on its disk.

    python scripts/load/kills.py
    python scripts/load/kills.py --kills 3 --seed 7

A client keeps jobs waiting, changes a setting, moves and reprioritises. The moment of each kill is
drawn at random: while the server starts, while the model loads, or some pictures later. Then, with
no server running, it must hold:

- the database is whole by SQLite's own check, and so is the index of words;
- the settings file can be read and holds what was answered last, or what was being sent;
- every picture can be decoded, and every one that a job lists is the file of its SHA-256.

At the end the server runs undisturbed: every job that was ever accepted is there, those that
waited are done, and the ones that a kill cut off say so and run when they are retried.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import itertools
import json
import random
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.load.serving import (  # noqa: E402 - needs the path above
    PATIENCE_SECONDS,
    Client,
    ServerProcess,
    ask,
)

_WAITING = 6
# Kept by the server, without effect on these jobs, and any whole number is good.
_SETTING = "jpeg_quality"
_NO_ANSWER = (OSError, http.client.HTTPException)
_POLL_SECONDS = 0.05


@dataclass
class Promises:
    """What the server said yes to, over all its lives."""

    accepted: set[str] = field(default_factory=set)
    setting: int | None = None
    # Sent last, and perhaps not answered.
    sent_setting: int | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the kills; return 1 when something was lost or damaged."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None, help="of the moments; random if omitted")
    options = parser.parse_args(arguments)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        make_checkpoint(data)
        faults, figures = run(data, options.kills, random.Random(seed))
        if faults:
            kept = shutil.copytree(data, Path(tempfile.mkdtemp()) / "data")
            print(f"the data folder is kept as {kept}")
    for name, value in figures.items():
        print(f"{name}: {value}")
    print("\n".join(faults) or "nothing was lost, nothing is damaged")
    return 1 if faults else 0


def run(data: Path, kills: int, moments: random.Random) -> tuple[list[str], dict[str, Any]]:
    """Kill the server that often; return what went wrong, and figures on what it went through."""
    promises = Promises()
    faults: list[str] = []
    caught: Counter[str] = Counter()
    server = ServerProcess(data)
    try:
        for number in range(kills):
            server.start()
            one_life(server, promises, moments)
            server.kill()
            caught.update(states(data))
            faults += [f"kill {number}: {fault}" for fault in damages(data, promises)]
            print(f"kill {number + 1}: {len(promises.accepted)} jobs accepted, "
                  f"{len(faults)} faults", flush=True)  # fmt: skip
        server.start()
        faults += losses(server, promises)
        ended = Counter(job["status"] for job in all_jobs(server))
    finally:
        server.kill()
    figures = {
        "kills": kills,
        "jobs accepted": len(promises.accepted),
        "jobs that a kill met": ", ".join(f"{n} {name}" for name, n in sorted(caught.items())),
        "jobs in the end": ", ".join(f"{n} {name}" for name, n in sorted(ended.items())),
        "pictures": len(pictures(data)),
        "left under hidden names": len(list(data.glob("outputs/**/.sdforge-*.tmp"))),
    }
    return faults, figures


# --- one life of the server ----------------------------------------------------------------------


def one_life(server: ServerProcess, promises: Promises, moments: random.Random) -> None:
    """Keep the server busy up to a random moment."""
    over = threading.Event()
    busy = threading.Thread(target=keep_busy, args=(server.port, promises, moments.random(), over))
    busy.start()
    # Some lives end while the server starts or loads, most of them after some pictures.
    wanted = moments.choice((0, 0, 1, 1, 2, 3, 4, 6))
    since = len(pictures(server.data))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(pictures(server.data)) < since + wanted and server.is_alive:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no picture is saved:\n{server.last_words()}")
        time.sleep(_POLL_SECONDS)
    time.sleep(moments.uniform(0, 1.5))
    # The client still sends: some requests are cut off in the middle.
    assert server.process is not None
    server.process.kill()
    over.set()
    busy.join()


def keep_busy(port: int, promises: Promises, seed: float, over: threading.Event) -> None:
    """Send jobs and changes until the server is gone."""
    choices = random.Random(seed)
    client = Client(port)
    try:
        while not over.is_set():
            waiting = client.get("/api/v1/queue")["waiting"]
            if len(waiting) < _WAITING:
                job = client.post(f"/api/v1/jobs/txt2img?priority={choices.randint(0, 2)}",
                                  body_of(choices))  # fmt: skip
                promises.accepted.add(job["id"])
            elif choices.random() < 0.3:
                job_id = choices.choice(waiting)["id"]
                # It may have begun meanwhile, which is answered with 422.
                client.ask("POST", f"/api/v1/jobs/{job_id}/place", {"index": choices.randint(0, 3)})
            value = promises.sent_setting = choices.randint(1, 100)
            client.post("/sdapi/v1/options", {_SETTING: value})
            promises.setting = value
    except _NO_ANSWER:
        pass
    finally:
        client.close()


def body_of(choices: random.Random) -> dict[str, Any]:
    """Return a small job of one or several pictures."""
    return {"prompt": "a cat", "steps": choices.randint(1, 4), "width": 64, "height": 64,
            "n_iter": choices.randint(1, 3), "seed": choices.randrange(10**9),
            "save_images": True}  # fmt: skip


# --- what is on the disk -------------------------------------------------------------------------


def damages(data: Path, promises: Promises) -> list[str]:
    """Say what is damaged in the data folder of a server that does not run."""
    return [*damaged_database(data), *damaged_settings(data, promises), *damaged_pictures(data)]


def damaged_database(data: Path) -> list[str]:
    """Check a copy of the database, with what SQLite has to take up from its log."""
    with tempfile.TemporaryDirectory() as folder:
        for file in database_files(data):
            shutil.copy(file, folder)
        connection = sqlite3.connect(Path(folder) / database_files(data)[0].name)
        try:
            said = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            connection.execute(
                "INSERT INTO pictures_text(pictures_text) VALUES ('integrity-check')"
            )
            said += [
                f"no such job: {row}" for row in connection.execute("PRAGMA foreign_key_check")
            ]
        except sqlite3.DatabaseError as error:
            said = [str(error)]
        finally:
            connection.close()
    return [f"database: {text}" for text in said if text != "ok"]


def damaged_settings(data: Path, promises: Promises) -> list[str]:
    """Check that the settings are what was answered, or what was sent and not answered yet."""
    if promises.setting is None:
        return []
    try:
        value = json.loads((data / "config.json").read_text(encoding="utf-8")).get(_SETTING)
    except (OSError, ValueError) as error:
        return [f"settings: {error}"]
    if value in (promises.setting, promises.sent_setting):
        promises.setting = value
        return []
    return [f"settings: {_SETTING} is {value} instead of {promises.setting}"]


def damaged_pictures(data: Path) -> list[str]:
    """Decode every picture, and compare those that jobs list with what is recorded of them."""
    from PIL import Image

    faults = []
    for path in pictures(data):
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            faults.append(f"picture {path.name}, {path.stat().st_size} bytes: {error}")
    for path, digest in recorded(data):
        if not path.exists():
            faults.append(f"picture {path.name} is recorded and not there")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            faults.append(f"picture {path.name} is not the one that is recorded")
    return faults


def pictures(data: Path) -> list[Path]:
    """Return the pictures on disk."""
    return sorted((data / "outputs").rglob("*.png"))


def recorded(data: Path) -> list[tuple[Path, str]]:
    """Return path and SHA-256 of every picture that a job lists."""
    rows = [json.loads(row[0]) for row in select(data, "SELECT image FROM images")]
    return [(Path(image["path"]), image["sha256"]) for image in rows if image["path"]]


def states(data: Path) -> list[str]:
    """Return the states of the jobs that were not over."""
    rows = select(data, "SELECT status FROM jobs WHERE finished_at IS NULL")
    return [row[0] for row in rows]


def select(data: Path, statement: str) -> list[Any]:
    """Return the rows of a query to a copy of the database."""
    with tempfile.TemporaryDirectory() as folder:
        for file in database_files(data):
            shutil.copy(file, folder)
        connection = sqlite3.connect(Path(folder) / database_files(data)[0].name)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()


def database_files(data: Path) -> list[Path]:
    """Return the database and the logs beside it, the database first."""
    from sdforge.core.paths import Paths

    database = Paths.under(data).database
    return [path for suffix in ("", "-wal", "-shm")
            if (path := database.with_name(database.name + suffix)).exists()]  # fmt: skip


# --- what became of the jobs ---------------------------------------------------------------------


def losses(server: ServerProcess, promises: Promises) -> list[str]:
    """Let all that waits be drawn, retry what was cut off; say which jobs are not as promised."""
    wait_until_idle(server)
    jobs = {job["id"]: job for job in all_jobs(server)}
    faults = [f"job {job_id} was accepted and is lost" for job_id in promises.accepted - set(jobs)]
    cut = [job for job in jobs.values() if job["status"] == "interrupted"]
    faults += [
        f"job {job['id']} is {job['status']}: {job['error']}"
        for job in jobs.values()
        if job["status"] not in ("done", "interrupted")
    ]
    retried = [
        ask(server, "POST", f"/api/v1/jobs/{job['id']}/retry?rest=true")["id"]
        for job in itertools.islice(cut, 5)
    ]
    wait_until_idle(server)
    for job_id in retried:
        job = ask(server, "GET", f"/api/v1/jobs/{job_id}")
        if job["status"] != "done":
            faults.append(f"the retried job {job_id} is {job['status']}: {job['error']}")
    return faults


def wait_until_idle(server: ServerProcess) -> None:
    """Wait until no job waits or runs."""
    while True:
        queue = ask(server, "GET", "/api/v1/queue")
        if not queue["waiting"] and not queue["running"]:
            return
        time.sleep(0.2)


def all_jobs(server: ServerProcess) -> list[dict[str, Any]]:
    """Return every job that the server knows."""
    jobs: list[dict[str, Any]] = ask(server, "GET", "/api/v1/jobs?limit=1000")
    return jobs


def make_checkpoint(data: Path) -> None:
    """Write a checkpoint that is read and drawn with in little time."""
    from scripts.make_tiny_checkpoints import TINY, TINY_METADATA, write_checkpoint

    folder = data / "models" / "Stable-diffusion"
    folder.mkdir(parents=True)
    write_checkpoint(folder / "tiny.safetensors", TINY, metadata=TINY_METADATA)


if __name__ == "__main__":
    sys.exit(main())
