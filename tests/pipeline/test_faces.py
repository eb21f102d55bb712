"""Faces restored on the way to a finished picture, and in extras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdforge.core.errors import Cancelled
from sdforge.core.events import Event, Notice, StageStarted, StepDone
from sdforge.core.paths import Paths
from sdforge.core.settings import Settings
from sdforge.models.faces.library import FaceLibrary
from sdforge.models.faces.restoring import Faces
from sdforge.output.infotext import write_infotext
from tests.pipeline.conftest import Pipeline
from tests.pipeline.test_extras import Bench
from tests.tiny_faces import write_faces


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> FaceLibrary:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder / "models", everywhere=True)
    return FaceLibrary(Paths.under(folder))


@pytest.fixture
def restoring(pipeline: Pipeline, library: FaceLibrary) -> Pipeline:
    pipeline.faces = Faces(library, pipeline.parts.memory)
    return pipeline


def test_faces_of_a_drawn_picture_are_restored(restoring: Pipeline) -> None:
    plain = restoring.draw(steps=1)[0].pixels
    by_name = {
        name: restoring.draw({"face_restoration_model": name}, steps=1, restore_faces=True)[0]
        for name in ("CodeFormer", "GFPGAN")
    }
    assert any(isinstance(one, StageStarted) and one.stage == "faces" for one in restoring.events)
    for result in by_name.values():
        assert result.pixels.shape == plain.shape
        assert not np.array_equal(result.pixels, plain)
    assert not np.array_equal(by_name["CodeFormer"].pixels, by_name["GFPGAN"].pixels)
    by_setting = restoring.draw({"face_restoration": True}, steps=1)[0]
    assert np.array_equal(by_setting.pixels, by_name["CodeFormer"].pixels)
    said_no = restoring.draw({"face_restoration": True}, steps=1, restore_faces=False)[0]
    assert np.array_equal(said_no.pixels, plain)


def test_the_picture_as_it_was_comes_too_where_that_is_wanted(restoring: Pipeline) -> None:
    before, after = restoring.draw(
        {"save_images_before_face_restoration": True}, steps=1, restore_faces=True
    )
    assert (before.suffix, after.suffix) == ("-before-face-restoration", "")
    assert np.array_equal(before.pixels, restoring.draw(steps=1)[0].pixels)


def test_told_to_stop_between_faces_the_picture_comes_as_it_was(restoring: Pipeline) -> None:
    plain = restoring.draw(steps=1)[0].pixels

    def on_event(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "faces":
            restoring.control.cancel()

    restoring.on_event = on_event
    run = restoring.start(steps=1, restore_faces=True)
    result = next(run)
    assert not result.is_complete
    assert np.array_equal(result.pixels, plain)
    with pytest.raises(Cancelled):
        next(run)


def test_without_files_the_picture_comes_and_says_what_goes_where(pipeline: Pipeline) -> None:
    plain = pipeline.draw(steps=1)[0].pixels
    made = pipeline.draw(steps=1, restore_faces=True)[0]
    assert np.array_equal(made.pixels, plain)
    assert "Face restoration" not in write_infotext(made.info, Settings())
    told = [event.text for event in pipeline.events if isinstance(event, Notice)]
    assert len(told) == 1 and "codeformer-v0.1.0.pth" in told[0]


def test_extras_restore_after_enlarging_and_count_both(
    tmp_path: Path, library: FaceLibrary
) -> None:
    bench = Bench(tmp_path)
    bench.faces = Faces(library, bench.upscalers.memory)
    across = np.linspace(0, 255, 40)[None, :, None].repeat(30, 0).repeat(3, 2)
    source = bench.put(Image.fromarray(across.astype(np.uint8)))
    shares = {"gfpgan_visibility": 0.5, "codeformer_visibility": 1.0, "codeformer_weight": 0.25}
    (plain,) = bench.run(source, upscaler="Twice", factor=2.0)
    (made,) = bench.run(source, upscaler="Twice", factor=2.0, **shares)
    assert made.pixels.shape == plain.pixels.shape == (60, 80, 3)
    assert not np.array_equal(made.pixels, plain.pixels)
    assert made.processed.steps == {
        "Postprocess upscale by": "2", "Postprocess upscaler": "Twice", "GFPGAN visibility": "0.5",
        "CodeFormer visibility": "1", "CodeFormer weight": "0.25",
    }  # fmt: skip
    steps = [one for one in bench.events if isinstance(one, StepDone)][1:]
    shares_done = [one.step / one.steps for one in steps]
    assert shares_done == sorted(shares_done)
    assert shares_done[-1] == 1.0
    (alone,) = bench.run(source, gfpgan_visibility=1.0)
    assert alone.pixels.shape == (30, 40, 3)
    assert alone.processed.steps == {"GFPGAN visibility": "1"}


def test_extras_stop_between_faces(tmp_path: Path, library: FaceLibrary) -> None:
    bench = Bench(tmp_path)
    bench.faces = Faces(library, bench.upscalers.memory)
    source = bench.put(Image.new("RGB", (40, 30), "gray"))

    def on_event(event: Event) -> None:
        if isinstance(event, StepDone) and event.stage == "faces":
            bench.control.cancel()

    bench.on_event = on_event
    with pytest.raises(Cancelled):
        list(bench.run(source, gfpgan_visibility=1.0))
    assert sum(isinstance(one, StepDone) for one in bench.events) == 1
