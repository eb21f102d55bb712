"""C17: a sweep of 5 checkpoints × 4 samplers × 3 seeds, against its own cells and reads alone.

Checkpoints whose reading takes long beside a step: a small U-Net with a text encoder of 101 million
numbers in fp16, converted on the way. Their files leave the system's cache before each sweep and
before each read alone. How much of the reading is hidden: how long the jobs of the second to the
fifth checkpoint wait for their model, against loading the same files with nothing else going on.
A round is a sum over sixty cells, so that three rounds will do.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from big_file import drop_cache
from timing import Comparison, Row

from scripts.make_tiny_checkpoints import TINY, TINY_METADATA, write_checkpoint
from sdforge.core.device import probe
from sdforge.core.paths import Paths
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine, Job, PipelineRunner
from sdforge.models.library import Library
from sdforge.sweeps.manifest import Sweep
from sdforge.sweeps.request import AskedAxis, SweepRequest
from sdforge.sweeps.sweeps import Sweeps

NAMES = ("one", "two", "three", "four", "five")
SIZES = replace(TINY, text_width=1024, text_layers=4)
ROUNDS, WARM_UPS = 3, 1
CELLS, STEPS, SIDE = 60, 6, 64
PATIENCE = 1200.0


@dataclass(frozen=True)
class Figures:
    """Seconds of one round, and how often a model was loaded."""

    total: float
    unavoidable: float
    waited: float
    read_alone: float
    loads: int


def measure() -> list[Row]:
    """Return the rows for loads, hidden reading and the whole time."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, _server(Paths.under(Path(folder))) as server:
        rounds = [_round(server, number) for number in range(WARM_UPS + ROUNDS)][WARM_UPS:]
    hidden = Comparison(
        tuple(one.waited for one in rounds), tuple(one.read_alone for one in rounds)
    )
    whole = Comparison(tuple(one.total for one in rounds), tuple(one.unavoidable for one in rounds))
    most = max(one.loads for one in rounds)
    title = "sweep of 5 × 4 × 3 cells"
    return [
        Row(
            id="C17", name=f"{title}: model loads, worst round", peer="one for each checkpoint",
            ratio=most / len(NAMES), target=1.0, ours=most, theirs=len(NAMES), unit="loads",
        ),
        hidden.row("C17", f"{title}: waiting for models", "loading the same files alone", 0.2),
        whole.row("C17", f"{title}: time", "sum of its cells + the first cold load", 1.05),
    ]  # fmt: skip


@dataclass(frozen=True)
class _Server:
    engine: Engine
    sweeps: Sweeps
    files: tuple[Path, ...]

    def forget(self) -> None:
        """Start as from cold: nothing in memory, no file in the system's cache."""
        self.engine.unload().result(PATIENCE)
        for file in self.files:
            drop_cache(file)


@contextmanager
def _server(paths: Paths) -> Iterator[_Server]:
    folder = paths.checkpoints[0]
    files = tuple(
        write_checkpoint(folder / f"{name}.safetensors", SIZES, seed=seed, dtype="F16",
                         metadata=TINY_METADATA)
        for seed, name in enumerate(NAMES)
    )  # fmt: skip
    library = Library(paths, hashing=False)
    engine = Engine(
        paths=paths,
        # Room for the one that draws and the one that comes.
        settings=SettingsStore(None, {"sd_checkpoints_limit": 2}),
        library=library,
        make_runner=lambda: PipelineRunner(library, probe_device=lambda: probe(force_cpu=True)),
        version="bench",
    )
    sweeps = Sweeps(engine, paths)
    engine.start()
    try:
        yield _Server(engine, sweeps, files)
    finally:
        engine.close(timeout=30)


def _round(server: _Server, number: int) -> Figures:
    server.forget()
    axes = [
        AskedAxis(axis="Sampler", values="Euler, Euler a, Heun, DPM++ 2M"),
        AskedAxis(axis="Checkpoint name", values=", ".join(NAMES)),
        AskedAxis(axis="Seed", values=f"{10 * number + 1}-{10 * number + 3}"),
    ]
    asked = SweepRequest(base=_request(STEPS), axes=axes)
    started = time.time()
    sweep = server.sweeps.submit(asked, save_images=False)
    done = server.sweeps.wait(sweep.id, PATIENCE)
    if done.counts()["done"] != CELLS:
        raise RuntimeError(f"not all cells were drawn: {done.counts()}")
    jobs = _jobs(server.engine, done)
    loading = [job.timings.get("load", 0.0) for job in jobs]
    drawn = sum(_seconds(job) - load for job, load in zip(jobs, loading, strict=True))
    return Figures(
        total=(jobs[-1].finished_at or 0.0) - started,
        unavoidable=drawn + loading[0],
        waited=sum(loading[1:]),
        read_alone=sum(_read_alone(server, name) for name in NAMES[1:]),
        loads=_loads(jobs),
    )


def _request(steps: int, checkpoint: str = "") -> GenerationRequest:
    return GenerationRequest(
        prompt="a cat", steps=steps, width=SIDE, height=SIDE, checkpoint=checkpoint
    )


def _jobs(engine: Engine, sweep: Sweep) -> list[Job]:
    """Return the jobs of all cells in the order in which they ran."""
    jobs = [engine.get(cell.job) for cell in sweep.cells]
    return sorted(jobs, key=lambda job: job.started_at or 0.0)


def _seconds(job: Job) -> float:
    return (job.finished_at or 0.0) - (job.started_at or 0.0)


def _loads(jobs: Sequence[Job]) -> int:
    order = [job.request.checkpoint for job in jobs]
    return sum(at == 0 or one != order[at - 1] for at, one in enumerate(order))


def _read_alone(server: _Server, name: str) -> float:
    server.forget()
    job = server.engine.submit(_request(1, name), save_images=False)
    return server.engine.wait(job.id, PATIENCE).timings["load"]
