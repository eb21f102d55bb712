"""img2img over many pictures: one job each; what is wrong with one is said with its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdforge.core.errors import InvalidRequest
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest
from sdforge.engine import Engine
from sdforge.engine.picture_batch import REUSABLE, BatchAnswer, PictureBatch, submit_batch
from sdforge.output.images import encode_image

INFOTEXT = (
    "a red fox\nNegative prompt: blurry\nSteps: 31, Sampler: Euler, Schedule type: Karras, "
    "CFG scale: 5.5, Seed: 77, Size: 192x128, Model hash: cat, Version: x"
)


def picture(infotext: str | None = None, size: tuple[int, int] = (48, 32)) -> bytes:
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    return encode_image(pixels, "png", infotext=infotext)


def fill(folder: Path, *names: str, infotext: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(picture(infotext, (48 + 8 * number, 32)))
    return folder


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """The folder that clients may name."""
    return tmp_path / "outputs"


def submit(
    engine: Engine, batch: PictureBatch, *, first_id: str | None = "task(first)", **values: Any
) -> BatchAnswer:
    base = GenerationRequest(prompt="oil painting", negative_prompt="text", steps=2, **values)

    def make(image: InputImage, mask: InputImage | None) -> GenerationRequest:
        return replace(base, init_images=(image,), mask=mask)

    return submit_batch(engine, batch, make, first_id=first_id)


def test_a_folder_becomes_a_job_per_picture_and_results_bear_their_names(
    engine: Engine, outputs: Path
) -> None:
    fill(outputs / "in", "a.png", "b.png")
    (outputs / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (outputs / "in" / "notes.txt").write_text("no picture")
    answer = submit(engine, PictureBatch(input_dir="outputs/in", output_dir="outputs/out"))
    assert [job.request.init_images[0].width for job in answer.jobs] == [48, 56]
    assert answer.jobs[0].id == "task(first)"
    assert len(answer.failures) == 1 and answer.failures[0].startswith("broken.png: ")
    for job in answer.jobs:
        engine.wait(job.id, timeout=20)
    assert sorted(path.name for path in (outputs / "out").iterdir()) == ["a.png", "b.png"]


def test_several_results_of_a_picture_are_counted(engine: Engine, outputs: Path) -> None:
    fill(outputs / "in", "a.png")
    batch = PictureBatch(input_dir="outputs/in", output_dir="outputs/out")
    (job,) = submit(engine, batch, batch_count=2).jobs
    engine.wait(job.id, timeout=20)
    assert sorted(path.name for path in (outputs / "out").iterdir()) == ["a-1.png", "a.png"]


def test_without_an_output_folder_the_settings_decide(engine: Engine, outputs: Path) -> None:
    fill(outputs / "in", "a.png")
    named = []
    for wanted in (False, True):
        engine.settings.update({"img2img_batch_use_original_name": wanted})
        (job,) = submit(engine, PictureBatch(input_dir="outputs/in"), first_id=None).jobs
        saved = engine.wait(job.id, timeout=20).images[0].path
        assert saved is not None
        named.append(Path(saved).name)
        assert outputs / "img2img-images" in Path(saved).parents
    assert named[0].startswith("00000-") and named[1] == "a.png"


def test_masks_are_found_by_name_or_there_is_one_for_all(engine: Engine, outputs: Path) -> None:
    fill(outputs / "in", "a.png", "b.png")
    fill(outputs / "one", "any.png")
    fill(outputs / "named", "b.webp.png", "a.png", "c.png")
    for folder, drawn in (("one", 2), ("named", 1)):
        batch = PictureBatch(input_dir="outputs/in", mask_dir=f"outputs/{folder}")
        answer = submit_batch(
            engine, batch, lambda image, mask: GenerationRequest(init_images=(image,), mask=mask)
        )
        assert len(answer.jobs) == drawn
        assert all(job.request.mask is not None for job in answer.jobs)
    (failure,) = answer.failures
    assert failure.startswith("b.png: mask")


def test_what_a_pictures_text_says_is_taken_as_far_as_wanted(engine: Engine, outputs: Path) -> None:
    fill(outputs / "in", "a.png", infotext=INFOTEXT)
    told = submit(engine, PictureBatch(input_dir="outputs/in", reuse=REUSABLE)).jobs[0].request
    assert told.prompt == "oil painting a red fox"
    assert told.negative_prompt == "text blurry"
    assert (told.steps, told.sampler, told.schedule) == (31, "Euler", "Karras")
    assert (told.cfg_scale, told.seed) == (5.5, 77)
    assert told.checkpoint == "cat.safetensors"
    batch = PictureBatch(input_dir="outputs/in", reuse=("Seed",))
    told = submit_batch(
        engine, batch, lambda image, mask: GenerationRequest(steps=3, init_images=(image,))
    ).jobs[0].request  # fmt: skip
    assert (told.prompt, told.steps, told.seed) == ("", 3, 77)


def test_the_texts_may_come_from_another_folder(engine: Engine, outputs: Path) -> None:
    fill(outputs / "in", "a.png", "b.png")
    fill(outputs / "info", "a.png", infotext=INFOTEXT)
    batch = PictureBatch(input_dir="outputs/in", reuse=("Prompt",), info_dir="outputs/info")
    prompts = [job.request.prompt for job in submit(engine, batch).jobs]
    assert prompts == ["oil painting a red fox", "oil painting"]


def test_pictures_that_were_sent_keep_their_names(engine: Engine, outputs: Path) -> None:
    image = engine.add_input(picture(INFOTEXT), "picture")
    gone = InputImage("0" * 64, 8, 8)
    batch = PictureBatch(
        images=((image, "C:\\holiday\\sea.png"), (gone, "gone.png")),
        output_dir="outputs/out", reuse=("Seed",),
    )  # fmt: skip
    answer = submit(engine, batch)
    (job,) = answer.jobs
    assert (job.request.file_name, job.request.seed) == ("sea", 77)
    assert answer.failures[0].startswith("gone.png: ")


@pytest.mark.parametrize(
    "folders",
    [
        {"input_dir": "/etc"},
        {"input_dir": "outputs/nothing"},
        {"input_dir": "outputs/in", "output_dir": "../elsewhere"},
        {"input_dir": "outputs/in", "mask_dir": "/"},
        {"input_dir": "outputs/in", "info_dir": "/", "reuse": ("Seed",)},
        {},
    ],
)
def test_other_folders_are_refused_before_anything_is_queued(
    engine: Engine, outputs: Path, folders: dict[str, Any]
) -> None:
    fill(outputs / "in", "a.png")
    with pytest.raises(InvalidRequest):
        submit(engine, PictureBatch(**folders))
    assert engine.jobs() == []


def test_a_batch_of_which_nothing_can_be_drawn_says_why(engine: Engine, outputs: Path) -> None:
    (outputs / "in").mkdir(parents=True)
    (outputs / "in" / "x.png").write_bytes(b"rubbish")
    with pytest.raises(InvalidRequest, match=r"x\.png"):
        submit(engine, PictureBatch(input_dir="outputs/in"))


def test_a_full_queue_leaves_out_the_rest_and_says_so(build: Any, outputs: Path) -> None:
    engine, runner = build(max_queued_jobs=2)
    runner.gate_step = 1
    fill(outputs / "in", "a.png", "b.png")
    engine.submit(GenerationRequest(steps=2))
    answer = submit(engine, PictureBatch(input_dir="outputs/in"))
    assert len(answer.jobs) == 1
    assert "b.png and what follows (1 in all)" in answer.failures[0]


def test_stored_pictures_are_read_only_for_what_they_say(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a batch of hundreds every file would be read before the first job."""
    image = engine.add_input(picture(INFOTEXT), "picture")
    batch = PictureBatch(images=((image, "a.png"),))
    (kept,) = submit(engine, replace(batch, reuse=("Seed",))).jobs
    assert kept.request.seed == 77
    with monkeypatch.context() as forbidden:
        forbidden.setattr(engine.inputs, "read", None)
        assert len(submit(engine, batch, first_id=None).jobs) == 1
    (path,) = tmp_path.rglob(image.sha256)
    path.unlink()
    with pytest.raises(InvalidRequest, match=r"a\.png: .*no longer there"):
        submit(engine, batch, first_id=None)
