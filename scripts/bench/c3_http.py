"""C3: what the HTTP route costs beside the engine; the peer is a bare FastAPI route.

A1111's route draws a picture that becomes a PNG of one megabyte, with a runner that has it ready.
Counted is the round trip without the engine's time: from the job's acceptance until the engine has
recorded its end and tells whoever waits. The peer returns the same base64 text, made beforehand, as
a dictionary: nothing is validated, read or encoded.

A second row counts processor time of the whole process, client included, less what the same job
takes when the engine is called without HTTP: on a busy machine each of the threads that a request
passes through waits for its turn, which says nothing about the program.
"""

from __future__ import annotations

import base64
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from served import Connection, served
from timing import WARM_UPS, Comparison, Row, time_once

from sdforge import garbage
from sdforge.api.app import create_api
from sdforge.core.events import StageStarted, StepDone
from sdforge.core.paths import Paths
from sdforge.core.request import GenerationRequest
from sdforge.core.result import GenerationInfo, ImageResult, ModelIdentity
from sdforge.core.settings import Settings, SettingsStore
from sdforge.engine import Engine
from sdforge.models.library import Library
from sdforge.pipeline.context import RunControl

# Noise does not get smaller: 592² × 3 bytes.
SIDE = 592
# A round takes some 15 ms, and which of its threads runs first makes two kinds of them: the median
# of few is the one or the other by chance.
ROUNDS = 150
BODY = {"prompt": "a cat", "steps": 1, "width": SIDE, "height": SIDE, "seed": 1}


class ReadyRunner:
    """Follows the `Runner` protocol with a picture that is there already."""

    def __init__(self) -> None:
        self.on_run: Callable[[], None] = lambda: None
        self._pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)

    def run(
        self, request: GenerationRequest, settings: Settings, emit: Any, control: RunControl
    ) -> Iterator[ImageResult]:
        """Yield the picture."""
        self.on_run()
        emit(StageStarted(stage="denoise"))
        emit(StepDone(step=1, steps=1, batch=0, batch_count=1))
        info = GenerationInfo(
            request=request, index=0, seed=request.image_seed(0), subseed=0,
            prompt=request.prompt, negative_prompt="", model=ModelIdentity(name="ready"),
        )  # fmt: skip
        yield ImageResult(pixels=self._pixels, info=info, index=0)

    def expect(self, titles: Any, settings: Settings) -> None:
        """There is nothing to prepare."""

    def unload(self) -> None:
        """There is nothing to give back."""

    def wants_tending(self) -> bool:
        """There is nothing to tend."""
        return False

    def memory_report(self) -> dict[str, Any]:
        """Nobody holds anything."""
        return {}


def measure() -> list[Row]:
    """Return the ratio."""
    from scripts.make_tiny_checkpoints import write_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        paths = Paths.under(Path(folder))
        write_checkpoint(paths.checkpoints[0] / "tiny.safetensors")
        runner = ReadyRunner()
        engine = Engine(
            paths=paths, settings=SettingsStore(None), library=Library(paths, hashing=False),
            make_runner=lambda: runner, version="bench",  # type: ignore[arg-type,return-value]
        )  # fmt: skip
        engine.start()
        # As the server does once it has started.
        garbage.look_for_it()
        try:
            app = create_api(engine, paths=paths, flags={}, version="bench")
            with served(app) as port:
                ours = Connection(port)
                beside_the_engine = time_beside(ours, engine, runner)
                picture = engine.image_data(engine.jobs(limit=1)[0].id, 0)[0]
                with served(bare(picture)) as other:
                    peer = Connection(other)
                    rounds = [
                        one_round(beside_the_engine, engine, lambda: peer.post("/picture", BODY))
                        for _ in range(WARM_UPS + ROUNDS)
                    ][WARM_UPS:]
                    peer.close()
                ours.close()
        finally:
            engine.close()
    ours_wall, theirs_wall, ours_cpu, theirs_cpu = zip(*rounds, strict=True)
    peer_name = "bare FastAPI route, the same text"
    what = "POST txt2img beside the engine, 1 MB"
    size = f"{len(picture):,} bytes of PNG"
    return [
        Comparison(ours_wall, theirs_wall).row("C3", what, peer_name, 1.3, size=size),
        Comparison(ours_cpu, theirs_cpu).row("C3", f"{what}: processor time", peer_name, 1.3),
    ]


def one_round(
    beside: Callable[[], float], engine: Engine, peer: Callable[[], object]
) -> tuple[float, float, float, float]:
    """Return the seconds of ours and the peer's, on the clock and of the processor."""
    began = time.process_time()
    ours_wall = beside()
    over_http = time.process_time() - began
    request = engine.jobs(limit=1)[0].request
    began = time.process_time()
    job = engine.wait(engine.submit(request).id)
    engine.image_data(job.id, 0)
    alone = time.process_time() - began
    began = time.process_time()
    theirs_wall = time_once(peer)
    return ours_wall, theirs_wall, over_http - alone, time.process_time() - began


def time_beside(connection: Connection, engine: Engine, runner: ReadyRunner) -> Callable[[], float]:
    """Return a function that draws a picture and gives the seconds that were not the engine's."""
    numbers = itertools.count()

    def draw() -> float:
        told: list[float] = []
        name = f"task(bench-{next(numbers)})"

        def follow() -> None:
            engine.subscribe(name, notify=lambda: told.append(time.time()))

        runner.on_run = follow
        seconds = time_once(
            lambda: connection.post("/sdapi/v1/txt2img", BODY | {"force_task_id": name})
        )
        runner.on_run = lambda: None
        return seconds - (told[-1] - engine.get(name).created_at)

    draw()
    return draw


def bare(picture: bytes) -> FastAPI:
    """Return the peer."""
    app = FastAPI()
    text = base64.b64encode(picture).decode()

    @app.post("/picture")
    async def answer(body: dict[str, Any]) -> dict[str, Any]:
        return {"images": [text], "parameters": body, "info": ""}

    return app
