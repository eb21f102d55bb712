"""Pictures that jobs refer to: stored once, found again, removed when nobody needs them."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest
from PIL import Image

from sdforge.core.errors import InvalidRequest, NotFound, StorageError
from sdforge.core.inputs import InputImage
from sdforge.engine.inputs import InputFolder
from tests.engine.fakes import a_request, make_engine


def png(colour: str, size: tuple[int, int] = (5, 3)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def put(folder: InputFolder, data: bytes) -> InputImage:
    return folder.put(data, "mask", max_pixels=1000)


def aged(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def test_a_picture_is_stored_once_under_its_content_and_read_back(tmp_path: Path) -> None:
    folder = InputFolder(tmp_path / "inputs")
    first, again, other = (put(folder, png(colour)) for colour in ("red", "red", "blue"))
    assert first == again != other
    assert (first.width, first.height) == (5, 3)
    assert folder.read(first) == png("red")
    assert len(list((tmp_path / "inputs").iterdir())) == 2


def test_what_cannot_be_used_is_not_stored(tmp_path: Path) -> None:
    folder = InputFolder(tmp_path / "inputs")
    for data in (b"no picture", png("red", (100, 100))):
        with pytest.raises(InvalidRequest, match="^mask: "):
            put(folder, data)
    assert not (tmp_path / "inputs").exists()


def test_a_missing_file_and_a_name_that_leads_elsewhere_are_not_found(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    folder = InputFolder(tmp_path / "inputs")
    for name in ("0" * 64, "../secret", "", "0" * 63 + "/"):
        with pytest.raises(NotFound):
            folder.read(InputImage(name, 1, 1))


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "inputs").write_text("a file")
    with pytest.raises(StorageError):
        put(InputFolder(tmp_path / "inputs"), png("red"))


def test_old_files_leave_unless_a_job_waits_for_them(tmp_path: Path) -> None:
    folder = InputFolder(tmp_path)
    old, needed, young = (put(folder, png(colour)) for colour in ("red", "blue", "green"))
    for image in (old, needed):
        aged(tmp_path / image.sha256, 8)
    (tmp_path / "notes.txt").write_text("mine")
    aged(tmp_path / "notes.txt", 99)
    assert folder.clean({needed.sha256}, keep_days=7, max_bytes=10**9) == 1
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {needed.sha256, young.sha256, "notes.txt"}


def test_a_folder_that_grew_too_large_loses_the_oldest_but_nothing_fresh(tmp_path: Path) -> None:
    folder = InputFolder(tmp_path)
    images = [put(folder, png(colour)) for colour in ("red", "blue", "green")]
    for days, image in zip((3, 2, 0), images, strict=True):
        aged(tmp_path / image.sha256, days)
    size = len(png("blue"))
    assert folder.clean((), keep_days=7, max_bytes=size) == 1
    assert folder.clean((), keep_days=7, max_bytes=0) == 1
    assert {path.name for path in tmp_path.iterdir()} == {images[2].sha256}


def test_a_queued_job_finds_its_picture_after_a_restart(tmp_path: Path) -> None:
    engine, _ = make_engine(tmp_path)
    image = engine.add_input(png("red"), "init_images")
    job = engine.submit(a_request(init_images=(image,), mask=image, denoising_strength=0.5))
    engine.close()
    assert job.kind == "img2img"
    assert job.id.startswith("task(img2img-")

    engine, _ = make_engine(tmp_path)
    try:
        kept = engine.get(job.id).request
        assert kept == job.request
        assert engine.inputs.read(kept.init_images[0]) == png("red")
        aged(tmp_path / "inputs" / image.sha256, 99)
        engine.add_input(png("blue"), "mask")
        assert engine.inputs.read(image) == png("red")
    finally:
        engine.close()
