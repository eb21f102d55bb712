"""A script's job looks like one row of batches and pictures, and its own pictures are found."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sdforge.core.errors import InvalidRequest, NotFound
from sdforge.core.events import Event, Notice, StageStarted, StepDone
from sdforge.core.extension import Active, Extension, Values
from sdforge.core.inputs import InputImage
from sdforge.core.registry import Registry
from sdforge.core.request import GenerationRequest, Limits
from sdforge.core.result import GenerationInfo, ImageResult, ModelIdentity
from sdforge.core.script import Script, Studio, check_script, runs_script, script_of
from sdforge.core.settings import Settings
from sdforge.engine.expansion import Emit
from sdforge.engine.studio import JobStudio, run_script

REQUEST = GenerationRequest(prompt="a", seed=5, batch_count=2, batch_size=2, width=64, height=64)
LIMITS = Limits(pixels_per_image=64 * 64, images_per_job=8)


class Twice(Script):
    name = "twice"
    label = "Twice"

    def batch_count(self, request: GenerationRequest, values: Values) -> int:
        return 2 * request.batch_count

    def run(
        self, request: GenerationRequest, values: Values, studio: Studio
    ) -> Iterator[ImageResult]:
        yield from studio.draw(request)
        studio.notice("half way")
        yield from studio.draw(replace(request, seed=request.seed + 100))


class OnlyPictures(Script):
    name = "only_pictures"
    label = "Only pictures"
    kinds = ("img2img",)


def draw(request: GenerationRequest, emit: Emit) -> Iterator[ImageResult]:
    for batch in range(request.batch_count):
        emit(StageStarted(stage="denoise", batch=batch, batch_count=request.batch_count))
        emit(StepDone(step=1, steps=1, batch=batch, batch_count=request.batch_count))
        for row in range(request.batch_size):
            index = batch * request.batch_size + row
            info = GenerationInfo(
                request=request, index=index, seed=request.image_seed(index), subseed=0,
                prompt=request.prompt, negative_prompt="", model=ModelIdentity(),
            )  # fmt: skip
            result = ImageResult(pixels=np.zeros((1, 1, 3), np.uint8), info=info, index=index)
            yield replace(result, suffix="-before")
            yield result


def nothing(image: InputImage) -> bytes:
    raise NotFound(image.sha256)


def stretched(image: Image.Image, width: int, height: int, upscaler: str) -> Image.Image:
    assert upscaler == "R-ESRGAN AnimeVideo"
    return image.resize((width, height))


def test_a_script_enlarges_by_name_and_the_progress_says_so() -> None:
    events: list[Event] = []
    studio = JobStudio(Settings(), draw, events.append, nothing, batch_total=4, enlarge=stretched)
    made = studio.enlarged(Image.new("RGB", (3, 2)), 9, 8, "R-ESRGAN AnimeVideo")
    assert made.size == (9, 8)
    assert events == [StageStarted(stage="upscale", batch=0, batch_count=4)]


def test_batches_and_pictures_of_all_drawings_are_counted_through() -> None:
    events: list[Event] = []
    studio = JobStudio(Settings(), draw, events.append, nothing, batch_total=4, enlarge=stretched)
    results = list(run_script(Twice(), {}, REQUEST, studio))
    finals = [one for one in results if not one.suffix]
    assert [one.index for one in finals] == list(range(8))
    assert [one.index for one in results if one.suffix] == list(range(8))
    assert [one.info.seed for one in finals] == [*range(5, 9), *range(105, 109)]
    steps = [(event.batch, event.batch_count) for event in events if isinstance(event, StepDone)]
    assert steps == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert [event.text for event in events if isinstance(event, Notice)] == ["half way"]


def test_a_script_that_draws_more_than_it_said_runs_no_bar_backwards() -> None:
    events: list[Event] = []
    studio = JobStudio(Settings(), draw, events.append, nothing, batch_total=1, enlarge=stretched)
    list(run_script(Twice(), {}, REQUEST, studio))
    steps = [(event.batch, event.batch_count) for event in events if isinstance(event, StepDone)]
    assert steps == [(0, 2), (1, 2), (2, 4), (3, 4)]


def test_a_picture_is_there_for_one_drawing() -> None:
    found: list[tuple[int, int]] = []

    def look(request: GenerationRequest, emit: Emit) -> Iterator[ImageResult]:
        found.append(studio.picture(request.init_images[0]).size)
        yield from draw(request, emit)

    studio = JobStudio(
        Settings(), look, lambda event: None, nothing, batch_total=1, enlarge=stretched
    )
    image = studio.put(Image.new("RGB", (9, 7)))
    assert (image.width, image.height) == (9, 7)
    list(studio.draw(replace(REQUEST, init_images=(image,))))
    assert found == [(9, 7)]
    with pytest.raises(NotFound):
        studio.read(image)


def test_a_job_has_one_script() -> None:
    both: list[Active] = [Active(Twice(), {}), Active(OnlyPictures(), {})]
    with pytest.raises(InvalidRequest, match="one script a job"):
        script_of(both)
    assert script_of([Active(Extension(), {})]) is None


def test_what_a_script_makes_is_bounded_as_everything_is() -> None:
    check_script(REQUEST, [Active(Twice(), {})], LIMITS)
    with pytest.raises(InvalidRequest, match="script_args.*12 pictures"):
        check_script(replace(REQUEST, batch_count=3), [Active(Twice(), {})], LIMITS)
    with pytest.raises(InvalidRequest, match="script_args.*128x64"):
        check_script(replace(REQUEST, width=128), [Active(Twice(), {})], LIMITS)
    with pytest.raises(InvalidRequest, match="script_name"):
        check_script(REQUEST, [Active(OnlyPictures(), {})], LIMITS)


def test_a_request_for_a_script_is_known_by_its_extensions() -> None:
    registry: Registry[Extension] = Registry("extension")
    registry.add("twice", Twice())
    assert runs_script(replace(REQUEST, extensions={"twice": {}}), registry)
    assert not runs_script(replace(REQUEST, extensions={"gone": {}}), registry)
