"""C10: what live previews cost a job; the peer is the same job without them.

The model that ships, 40 steps at its own size. By the linear map and by a small decoder of TAESD's
kind as often as they come, which is at most five times a second. Noted beside: a preview by the VAE
after every step, as A1111 does it by default.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from timing import Row, compare

from sdforge.core.device import probe
from sdforge.core.events import PreviewReady
from sdforge.core.paths import Paths
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine
from sdforge.engine.runner import PipelineRunner
from sdforge.models.library import Library
from sdforge.pipeline import preview

STEPS = 40
ROUNDS = 9
Draw = Callable[[str], int]


def measure() -> list[Row]:
    """Return the ratios to the job without previews."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, started(Path(folder)) as draw:
        draw("TAESD"), draw("Full")
        linear = compare(lambda: draw("Approx NN"), lambda: draw(""), rounds=ROUNDS)
        small = compare(lambda: draw("TAESD"), lambda: draw(""), rounds=ROUNDS)
        counts = {kind: draw(kind) for kind in ("Approx NN", "TAESD")}
        usual, preview.SECONDS_BETWEEN = preview.SECONDS_BETWEEN, 0.0
        try:
            each = compare(lambda: draw("Full"), lambda: draw(""), rounds=3)
        finally:
            preview.SECONDS_BETWEEN = usual
    note = f"by the VAE after every step, as A1111 does it, the job takes {each.ratio:.2f} times"
    return [
        linear.row(
            "C10", "job with live previews: linear", "the same job without", 1.02,
            previews=counts["Approx NN"],
        ),
        small.row(
            "C10", "job with live previews: TAESD", "the same job without", 1.06,
            previews=counts["TAESD"], note=f"{note} as long",
        ),
    ]  # fmt: skip


@contextmanager
def started(folder: Path) -> Iterator[Draw]:
    """Run an engine; yield a function that draws with one kind of previews and counts them."""
    paths = Paths.under(folder)
    settings = SettingsStore(None)
    library = Library(paths)
    engine = Engine(
        paths=paths,
        settings=settings,
        library=library,
        make_runner=lambda: PipelineRunner(
            library, probe_device=lambda: probe(force_cpu=True), flags={}, version="bench"
        ),
        version="bench",
    )
    engine.start()

    def draw(kind: str) -> int:
        on = {"live_previews_enable": bool(kind), "show_progress_type": kind or "Approx NN"}
        request = GenerationRequest(
            prompt="red apple, blue background", steps=STEPS, seed=1, overrides=on
        )
        job = engine.submit(request, save_images=False)
        told = [one.event for one in engine.events(job.id)]
        done = engine.get(job.id)
        if done.error:
            raise RuntimeError(f"{done.status}: {done.error}")
        return sum(isinstance(event, PreviewReady) for event in told)

    try:
        yield draw
    finally:
        engine.close()
