#!/usr/bin/env python3
"""Let eight clients draw fifty pictures each on a live server, and look whether it was fair.

    python scripts/load/crowd.py
    python scripts/load/crowd.py --at-once --steps 4

Half of the clients use A1111's blocking route, half queue jobs and ask for them. They send one
after another, or with `--at-once` all fifty before they ask for the first. It must hold:

- every client gets every picture, each of the seed it asked for;
- jobs start in the order in which they were accepted: none waits for one that came later;
- the server answers all the while: of `/sdapi/v1/progress`, polled every 20 ms as a page does, the
  95th percentile is printed beside that of `/healthz`, which does nothing, in the same process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.load.serving import Client, ServerProcess, ask  # noqa: E402 - needs the path above

_POLL_SECONDS = 0.02
_JOB_SECONDS = 0.05


@dataclass
class Outcome:
    """What the clients got: the seeds of client k's pictures, and what went wrong."""

    seeds: dict[int, list[int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the crowd; return 1 unless all was well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=50, help="of each client")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--side", type=int, default=64, help="width and height in pixels")
    parser.add_argument("--at-once", action="store_true", help="queue all before asking for one")
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(Path(folder) / "data") as server,
    ):
        body = {"prompt": "an owl", "steps": options.steps, "seed": 0,
                "width": options.side, "height": options.side}  # fmt: skip
        ask(server, "POST", "/sdapi/v1/txt2img", body)
        began = time.monotonic()
        with Poller(server.port) as poller:
            outcome = run_clients(server.port, body, options)
        seconds = time.monotonic() - began
        most = options.clients * options.jobs + 1
        jobs = ask(server, "GET", f"/api/v1/jobs?limit={most}")[:-1]
    faults = [*outcome.faults, *unanswered(outcome, options), *out_of_order(jobs)]
    print(f"{len(jobs)} jobs of {options.clients} clients in {seconds:.0f} s")
    print(f"most starts of others between two of one client: {longest_turn(jobs)}")
    for path, times in poller.times.items():
        print(f"{path}: {len(times)} answers, {percentiles(times)}")
    print("\n".join(faults) or "every picture came; jobs started in the order of acceptance")
    return 1 if faults else 0


# --- the clients ---------------------------------------------------------------------------------


def run_clients(port: int, body: dict[str, Any], options: argparse.Namespace) -> Outcome:
    """Let all clients loose at the same moment; return what they got."""
    outcome = Outcome()
    start = threading.Barrier(options.clients)

    def run(number: int) -> None:
        client = Client(port)
        use = one_by_one if not options.at_once else all_at_once
        bodies = [body | {"prompt": f"client {number}", "seed": number * 1000 + index}
                  for index in range(options.jobs)]  # fmt: skip
        start.wait()
        try:
            outcome.seeds[number] = use(client, bodies, is_blocking=number % 2 == 0)
        except Exception as error:  # noqa: BLE001 (the others go on; it is told at the end)
            outcome.faults.append(f"client {number}: {error!r}")
        finally:
            client.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(options.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def one_by_one(client: Client, bodies: list[dict[str, Any]], *, is_blocking: bool) -> list[int]:
    """Send each job when the one before is done; return the seeds that were drawn."""
    if is_blocking:
        return [seed_of_answer(client.post("/sdapi/v1/txt2img", body)) for body in bodies]
    return [seed_of_job(client, client.post("/api/v1/jobs/txt2img", body)["id"]) for body in bodies]


def all_at_once(client: Client, bodies: list[dict[str, Any]], *, is_blocking: bool) -> list[int]:
    """Queue all jobs, then wait for them; `is_blocking` takes the pictures' files as well."""
    ids = [client.post("/api/v1/jobs/txt2img", body)["id"] for body in bodies]
    return [seed_of_job(client, job_id, fetch=is_blocking) for job_id in ids]


def seed_of_answer(answer: dict[str, Any]) -> int:
    """Return the seed of the one picture in an answer of A1111's route."""
    if len(answer["images"]) != 1:
        raise RuntimeError(f"{len(answer['images'])} pictures instead of one")
    seed: int = json.loads(answer["info"])["seed"]
    return seed


def seed_of_job(client: Client, job_id: str, *, fetch: bool = True) -> int:
    """Wait for a job and return the seed of its picture."""
    while not (job := client.get(f"/api/v1/jobs/{job_id}"))["finished_at"]:
        time.sleep(_JOB_SECONDS)
    if job["status"] != "done" or len(job["images"]) != 1:
        raise RuntimeError(f"job {job_id} is {job['status']}: {job['error']}")
    if fetch:
        status, data = client.ask("GET", f"/api/v1/jobs/{job_id}/images/0")
        if status != 200 or not data.startswith(b"\x89PNG"):
            raise RuntimeError(f"the picture of job {job_id}: {status} {data[:100]!r}")
    seed: int = job["images"][0]["seed"]
    return seed


# --- what must hold ------------------------------------------------------------------------------


def unanswered(outcome: Outcome, options: argparse.Namespace) -> list[str]:
    """Say which clients did not get what they asked for."""
    return [
        f"client {number} got other pictures than it asked for: {outcome.seeds.get(number)}"
        for number in range(options.clients)
        if outcome.seeds.get(number) != [number * 1000 + index for index in range(options.jobs)]
    ]


def out_of_order(newest_first: list[dict[str, Any]]) -> list[str]:
    """Say which jobs started before one that was accepted earlier."""
    accepted = list(reversed(newest_first))
    return [
        f"job {later['id']} started before {earlier['id']}, which was accepted first"
        for earlier, later in itertools.pairwise(accepted)
        if later["started_at"] < earlier["started_at"]
    ]


def longest_turn(jobs: list[dict[str, Any]]) -> int:
    """Return how many jobs others started at most between two of one client.

    With n clients that wait for each answer, n - 1 is taking turns exactly.
    """
    order = [job["request"]["prompt"] for job in sorted(jobs, key=lambda job: job["started_at"])]
    places: dict[str, list[int]] = {}
    for place, name in enumerate(order):
        places.setdefault(name, []).append(place)
    gaps = Counter(
        later - earlier - 1
        for mine in places.values()
        for earlier, later in itertools.pairwise(mine)
    )
    return max(gaps, default=0)


# --- how fast it answers meanwhile ---------------------------------------------------------------


class Poller:
    """Polls the server from a process of its own, as long as the context lasts."""

    PATHS = ("/sdapi/v1/progress", "/healthz")

    def __init__(self, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._results, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=poll, args=(port, self._stop, theirs))
        self.times: dict[str, list[float]] = {}

    def __enter__(self) -> Poller:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.times = self._results.recv()
        self._process.join()


def poll(port: int, stop: Event, results: Any) -> None:
    """Ask for the paths in turn until told to stop; send the seconds of each answer."""
    client = Client(port)
    times: dict[str, list[float]] = {path: [] for path in Poller.PATHS}
    try:
        while not stop.is_set():
            for path, seconds in times.items():
                began = time.perf_counter()
                client.get(path)
                seconds.append(time.perf_counter() - began)
                time.sleep(_POLL_SECONDS)
    finally:
        results.send(times)


def percentiles(times: list[float]) -> str:
    """Return median, 95th and 99th percentile in milliseconds."""
    ordered = sorted(times)
    shown = (ordered[min(int(len(ordered) * part), len(ordered) - 1)] * 1e3
             for part in (0.5, 0.95, 0.99))  # fmt: skip
    return "median {:.1f}, p95 {:.1f}, p99 {:.1f} ms".format(*shown)


if __name__ == "__main__":
    sys.exit(main())
