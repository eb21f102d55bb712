"""C11: 32 pictures for 8 clients over HTTP; the peer is the same engine, called 32 times in turn.

A tiny Stable Diffusion, 64×64 pixels. The clients are threads of another process and use A1111's
blocking route. While they draw, that process polls `/sdapi/v1/progress` twice a second, as a page
does, and in turn with it `/healthz`, which does nothing. Then a long job is cancelled over HTTP
from within one of its steps, and the steps that it still does are counted.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import torch
from c2_engine import make_library
from served import Connection, served
from timing import Comparison, Row, time_once

from sdforge import garbage
from sdforge.api.app import create_api
from sdforge.core.device import probe
from sdforge.core.events import StepDone
from sdforge.core.paths import Paths
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine
from sdforge.engine.runner import PipelineRunner

CLIENTS, JOBS, STEPS = 8, 4, 10
ROUNDS, WARM_UPS = 7, 1
# On a busy machine fewer rounds are taken, at least three.
_BUDGET_SECONDS, _FEWEST_ROUNDS = 120.0, 3
PATHS = ("/sdapi/v1/progress", "/healthz")
PROGRESS_SECONDS = 0.020
_POLL_SECONDS = 0.25
_BODY = {"prompt": "a cat", "steps": STEPS, "width": 64, "height": 64, "sampler_name": "Euler"}


def measure() -> list[Row]:
    """Return the ratio, the 95th percentile of progress, and the steps after a cancel."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        paths = Paths.under(Path(folder))
        engine = stack.enter_context(started(paths))
        port = stack.enter_context(served(create_api(engine, paths=paths, flags={}, version="b")))
        crowd = stack.enter_context(crowd_of(port))
        ours, theirs, polled = [], [], []
        began = time.perf_counter()
        for number in range(WARM_UPS + ROUNDS):
            if len(ours) >= _FEWEST_ROUNDS and time.perf_counter() - began > _BUDGET_SECONDS:
                break
            (seconds, times), serial = crowd(), time_once(lambda: in_turn(engine))
            if number >= WARM_UPS:
                ours.append(seconds)
                theirs.append(serial)
                polled.append(times)
        steps = steps_after_cancel(engine, port)
    progress, nothing = (
        percentile([second for times in polled for second in times[path]]) for path in PATHS
    )
    note = f"`/healthz`, which does nothing, polled in turn with it: {nothing * 1e3:.1f} ms"
    return [
        Comparison(tuple(ours), tuple(theirs)).row(
            "C11", "32 pictures for 8 clients", "the engine called 32 times in turn", 1.05
        ),
        Row(
            id="C11", name="/sdapi/v1/progress meanwhile, p95", peer="20 ms",
            ratio=progress / PROGRESS_SECONDS, target=1.0, ours=progress, theirs=PROGRESS_SECONDS,
            details={"note": note},
        ),
        Row(
            id="C11", name="steps done after a cancel", peer="one step", ratio=steps, target=1.0,
            ours=steps, theirs=1.0, unit="steps",
        ),
    ]  # fmt: skip


@contextmanager
def started(paths: Paths) -> Iterator[Engine]:
    """Run an engine on a tiny checkpoint."""
    library = make_library(paths)
    engine = Engine(
        paths=paths,
        settings=SettingsStore(None),
        library=library,
        make_runner=lambda: PipelineRunner(
            library, probe_device=lambda: probe(force_cpu=True), flags={}, version="bench"
        ),
        version="bench",
    )
    engine.start()
    # As the server does once it has started.
    garbage.look_for_it()
    try:
        yield engine
    finally:
        engine.close()


def in_turn(engine: Engine) -> None:
    """Draw as many pictures as the crowd, each when the one before is done."""
    for number in range(CLIENTS * JOBS):
        request = GenerationRequest(
            prompt="a cat", steps=STEPS, width=64, height=64, sampler="Euler", seed=number
        )
        job = engine.wait(engine.submit(request).id)
        if job.error:
            raise RuntimeError(job.error.message)


def steps_after_cancel(engine: Engine, port: int) -> float:
    """Return the steps that a job begins after its cancellation was answered."""
    request = GenerationRequest(prompt="a cat", steps=40, width=64, height=64, sampler="Euler")
    job = engine.submit(request)
    connection = Connection(port)
    done = at_answer = 0
    for said in engine.events(job.id):
        if isinstance(said.event, StepDone):
            done = said.event.step
            if done == STEPS:
                connection.post(f"/api/v1/jobs/{job.id}/cancel", {})
                at_answer = engine.get(job.id).progress.step
    connection.close()
    return float(max(done - at_answer, 0))


# --- the clients, in a process of their own ------------------------------------------------------


@contextmanager
def crowd_of(port: int) -> Iterator[Callable[[], Any]]:
    """Yield a function that lets the crowd draw once: (seconds, seconds of each poll by path)."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=clients, args=(port, theirs))
    process.start()

    def draw() -> Any:
        mine.send("draw")
        return mine.recv()

    try:
        yield draw
    finally:
        mine.send("end")
        process.join()


def clients(port: int, orders: Pipe) -> None:
    """Draw when told to; the connections stay open from one time to the next."""
    connections = [Connection(port) for _ in range(CLIENTS)]
    poller = Connection(port)
    while orders.recv() == "draw":
        times: dict[str, list[float]] = {path: [] for path in PATHS}
        threads = [
            threading.Thread(target=draw_all, args=(connection, number))
            for number, connection in enumerate(connections)
        ]
        is_drawn = threading.Event()
        polling = threading.Thread(target=poll, args=(poller, times, is_drawn))
        began = time.perf_counter()
        for thread in (*threads, polling):
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        is_drawn.set()
        polling.join()
        orders.send((seconds, times))


def poll(connection: Connection, times: dict[str, list[float]], is_drawn: threading.Event) -> None:
    """Ask each path in turn until everything is drawn; note how long each answer took."""
    while not is_drawn.is_set():
        for path in PATHS:
            times[path].append(time_once(lambda path=path: connection.get(path)))
            is_drawn.wait(_POLL_SECONDS)


def draw_all(connection: Connection, number: int) -> None:
    """Draw one client's pictures."""
    for index in range(JOBS):
        connection.post("/sdapi/v1/txt2img", _BODY | {"seed": number * JOBS + index})


def percentile(times: list[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(times, n=20)[-1]
