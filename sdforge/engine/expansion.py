"""One job that consists of several requests (an extension's `expand`), drawn one after another.

Batches and pictures are renumbered, so that whoever follows the job sees one row of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from sdforge.core.events import Event, StageStarted, StepDone
from sdforge.core.extension import Active
from sdforge.core.request import GenerationRequest
from sdforge.core.result import ImageResult

Emit = Callable[[Event], None]
Run = Callable[[GenerationRequest, Emit], Iterator[ImageResult]]


def expanded(request: GenerationRequest, active: Sequence[Active]) -> list[GenerationRequest]:
    """Return the requests that a resolved one stands for; each extension expands all before it."""
    requests = [request]
    for one in active:
        requests = [made for asked in requests for made in one.extension.expand(asked, one.values)]
    return requests


def run_all(requests: Sequence[GenerationRequest], run: Run, emit: Emit) -> Iterator[ImageResult]:
    """Yield the pictures of all requests in order; the first exception ends them all."""
    batch_total = sum(request.batch_count for request in requests)
    batches, pictures = 0, 0
    for request in requests:
        for result in run(request, _renumbered(emit, batches, batch_total)):
            yield replace(result, index=result.index + pictures)
        batches += request.batch_count
        pictures += request.image_count


def _renumbered(emit: Emit, first_batch: int, batch_total: int) -> Emit:
    def pass_on(event: Event) -> None:
        if isinstance(event, (StageStarted, StepDone)):
            event = replace(event, batch=event.batch + first_batch, batch_count=batch_total)
        emit(event)

    return pass_on
