"""A job of several requests looks like one row of batches and pictures."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from sdforge.core.events import Event, PreviewReady, StageStarted, StepDone
from sdforge.core.extension import Active, Extension, Values
from sdforge.core.request import GenerationRequest
from sdforge.core.result import GenerationInfo, ImageResult, ModelIdentity
from sdforge.engine.expansion import Emit, expanded, run_all

TWO_BATCHES = GenerationRequest(prompt="a", seed=5, batch_count=2, batch_size=3)


class EachSeedTwice(Extension):
    name = "each_seed_twice"

    def expand(self, request: GenerationRequest, values: Values) -> list[GenerationRequest]:
        return [request, replace(request, seed=request.seed + 100)]


class Shout(Extension):
    name = "shout"

    def expand(self, request: GenerationRequest, values: Values) -> list[GenerationRequest]:
        return [request, replace(request, prompt=request.prompt.upper())]


def draw(request: GenerationRequest, emit: Emit) -> Iterator[ImageResult]:
    for batch in range(request.batch_count):
        emit(StageStarted(stage="denoise", batch=batch, batch_count=request.batch_count))
        emit(StepDone(step=1, steps=1, batch=batch, batch_count=request.batch_count))
        emit(PreviewReady(image=b"", media_type="image/png", step=1))
        for row in range(request.batch_size):
            index = batch * request.batch_size + row
            info = GenerationInfo(
                request=request, index=index, seed=request.image_seed(index), subseed=0,
                prompt=request.prompt, negative_prompt="", model=ModelIdentity(),
            )  # fmt: skip
            yield ImageResult(pixels=np.zeros((1, 1, 3), np.uint8), info=info, index=index)


def test_extensions_expand_what_those_before_them_made() -> None:
    active = [Active(EachSeedTwice(), {}), Active(Shout(), {})]
    requests = expanded(GenerationRequest(prompt="a", seed=5), active)
    assert [(request.prompt, request.seed) for request in requests] == [
        ("a", 5), ("A", 5), ("a", 105), ("A", 105),
    ]  # fmt: skip


def test_without_extensions_a_request_stands_for_itself() -> None:
    assert expanded(TWO_BATCHES, ()) == [TWO_BATCHES]


def test_pictures_and_batches_are_counted_through() -> None:
    events: list[Event] = []
    requests = expanded(TWO_BATCHES, [Active(EachSeedTwice(), {})])
    results = list(run_all(requests, draw, events.append))
    assert [result.index for result in results] == list(range(12))
    assert [result.info.seed for result in results] == [*range(5, 11), *range(105, 111)]
    steps = [(event.batch, event.batch_count) for event in events if isinstance(event, StepDone)]
    assert steps == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert sum(isinstance(event, PreviewReady) for event in events) == 4


def test_an_exception_ends_the_job() -> None:
    def fail(request: GenerationRequest, emit: Emit) -> Iterator[ImageResult]:
        yield from draw(request, emit)
        raise RuntimeError("broken")

    results = []
    with pytest.raises(RuntimeError):
        for result in run_all([TWO_BATCHES, TWO_BATCHES], fail, lambda event: None):
            results.append(result)
    assert len(results) == 6
