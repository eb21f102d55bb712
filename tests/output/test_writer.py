"""Saving pictures: names, numbers, folders, errors, and the queue in front of the thread."""

import hashlib
import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdforge.core.errors import InvalidRequest, StorageError
from sdforge.core.paths import Paths
from sdforge.core.request import GenerationRequest
from sdforge.core.result import GenerationInfo, ImageResult, ModelIdentity
from sdforge.core.settings import Settings
from sdforge.output.images import read_infotext
from sdforge.output.infotext import write_infotext
from sdforge.output.writer import EncodedImage, ImageWriter, next_number

FLAT = Settings(save_to_dirs=False, grid_save_to_dirs=False, samples_filename_pattern="[seed]")
SAMPLES = Path("outputs/txt2img-images")
GRIDS = Path("outputs/txt2img-grids")


def result(index: int = 0, prompt: str = "a cat", size: int = 8) -> ImageResult:
    request = GenerationRequest(prompt=prompt, width=size, height=size, cfg_scale=7.0, seed=100)
    info = GenerationInfo(
        request=request,
        index=index,
        seed=request.image_seed(index),
        subseed=0,
        prompt=prompt,
        negative_prompt="",
        model=ModelIdentity(name="tiny"),
    )
    pixels = np.random.default_rng(index).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return ImageResult(pixels=pixels, info=info, index=index)


@pytest.fixture
def writer(tmp_path: Path):
    made = ImageWriter(Paths.under(tmp_path))
    yield made
    made.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_saved_picture_is_the_picture_with_its_infotext(
    writer: ImageWriter, tmp_path: Path
) -> None:
    picture = result()
    saved = writer.save(picture, Settings()).result(10)
    day = datetime.now().astimezone().strftime("%Y-%m-%d")
    assert saved.path == tmp_path / SAMPLES / day / "00000-100.png"
    assert saved.path.read_bytes() == saved.data
    with Image.open(saved.path) as image:
        assert np.array_equal(np.asarray(image), picture.pixels)
    assert read_infotext(saved.data) == saved.infotext == write_infotext(picture.info, Settings())
    assert saved == EncodedImage(
        index=0, data=saved.data, media_type="image/png", path=saved.path,
        infotext=saved.infotext, seed=100, width=8, height=8,
    )  # fmt: skip
    assert names(saved.path.parent) == ["00000-100.png"]


def test_a_picture_not_to_be_saved_is_only_encoded(writer: ImageWriter, tmp_path: Path) -> None:
    encoded = writer.save(result(), Settings(samples_format="webp"), save=False).result(10)
    assert encoded.path is None and encoded.media_type == "image/webp"
    assert not (tmp_path / "outputs").exists()


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / SAMPLES
    folder.mkdir(parents=True)
    for name in ("00041-7.png", "00042.jpg", "notes.txt", "grid-0099.png", "x-00077.png"):
        (folder / name).touch()
    for expected in ("00043-100.png", "00044-100.png"):
        writer = ImageWriter(Paths.under(tmp_path))
        path = writer.save(result(), FLAT).result(10).path
        writer.close()
        assert path is not None and path.name == expected


def test_many_clients_get_different_numbers(writer: ImageWriter, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as clients:
        futures = list(clients.map(lambda index: writer.save(result(index), FLAT), range(40)))
    paths = [future.result(10).path for future in futures]
    numbers = sorted(int(path.name.split("-")[0]) for path in paths if path)
    assert numbers == list(range(40))


def test_two_servers_never_overwrite_each_others_pictures(tmp_path: Path) -> None:
    writers = [ImageWriter(Paths.under(tmp_path)) for _ in range(2)]
    pictures = [result(seed, size=16) for seed in range(20)]
    # The same seed in both, so that names clash whenever the numbers do.
    same = [replace(picture, info=replace(picture.info, seed=1)) for picture in pictures]
    futures = [writer.save(picture, FLAT) for picture in same for writer in writers]
    saved = [future.result(10) for future in futures]
    for writer in writers:
        writer.close()
    assert len({image.path for image in saved}) == 40
    for image in saved:
        assert image.path is not None and image.path.read_bytes() == image.data


def test_without_numbers_a_name_taken_gets_one(writer: ImageWriter) -> None:
    settings = replace(FLAT, save_images_add_number=False)
    saved = [writer.save(result(), settings).result(10).path for _ in range(3)]
    assert [path.name for path in saved if path] == ["100.png", "100-1.png", "100-2.png"]


def test_the_name_none_leaves_the_number_alone(writer: ImageWriter) -> None:
    for numbered in (True, False):
        settings = replace(FLAT, samples_filename_pattern="[none]", save_images_add_number=numbered)
        path = writer.save(result(), settings).result(10).path
        assert path is not None and path.name in ("00000.png", "00001.png")


def test_without_folders_the_prompt_is_part_of_the_name(writer: ImageWriter) -> None:
    settings = replace(FLAT, samples_filename_pattern="")
    path = writer.save(result(prompt="../a: cat/"), settings).result(10).path
    assert path is not None and path.name == "00000-100-_a_ cat_.png"


def test_neither_pattern_nor_prompt_leads_out_of_the_folder(
    writer: ImageWriter, tmp_path: Path
) -> None:
    settings = Settings(
        directories_filename_pattern="../../[prompt_spaces]", samples_filename_pattern="../../x"
    )
    path = writer.save(result(prompt="../../../up"), settings).result(10).path
    assert path is not None and path.resolve().is_relative_to(tmp_path / SAMPLES)
    assert path.parent.name == "_.._.._up"


def test_the_longest_names_can_be_written(writer: ImageWriter) -> None:
    settings = replace(
        FLAT, samples_filename_pattern="[prompt]", save_to_dirs=True, save_txt=True,
        directories_filename_pattern="[prompt]/[prompt]",
    )  # fmt: skip
    for prompt in ("x" * 1000, "猫" * 1000, "🐈" * 1000):
        path = writer.save(result(prompt=prompt), settings).result(10).path
        assert path is not None and path.exists()


@pytest.mark.parametrize("format", ["png", "jpg", "jpeg", "webp"])
def test_the_extension_is_the_setting(format: str, writer: ImageWriter) -> None:
    path = writer.save(result(), replace(FLAT, samples_format=format)).result(10).path
    assert path is not None and path.suffix == f".{format}"


def test_the_text_file_and_the_metadata_are_settings(writer: ImageWriter) -> None:
    settings = replace(FLAT, save_txt=True, enable_pnginfo=False)
    saved = writer.save(result(prompt="猫"), settings).result(10)
    assert saved.path is not None and saved.infotext.startswith("猫\nSteps: 20")
    text = saved.path.with_suffix(".txt").read_text(encoding="utf-8")
    assert text == f"{saved.infotext}\n"
    assert read_infotext(saved.data) == ""


def test_a_grid_holds_all_pictures_under_its_own_numbers(
    writer: ImageWriter, tmp_path: Path
) -> None:
    results = [result(index) for index in range(4)]
    for number in range(2):
        saved = writer.save_grid(results, FLAT).result(10)
        assert saved.path == tmp_path / GRIDS / f"grid-{number:04}.png"
    assert (saved.index, saved.width, saved.height) == (-1, 16, 16)
    with Image.open(io.BytesIO(saved.data)) as image:
        assert np.array_equal(np.asarray(image)[8:, 8:], results[3].pixels)
    assert saved.infotext == write_infotext(results[0].info, FLAT)


def test_a_grid_follows_the_row_setting_and_may_stay_unsaved(writer: ImageWriter) -> None:
    settings = replace(FLAT, n_rows=1, grid_format="jpg")
    saved = writer.save_grid([result(i) for i in range(3)], settings, save=False).result(10)
    assert (saved.width, saved.height, saved.path) == (24, 8, None)
    assert saved.media_type == "image/jpeg"


def test_a_folder_that_cannot_be_written_fails_its_picture_only(
    writer: ImageWriter, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    blocked = replace(FLAT, outdir_txt2img_samples="file/below")
    failed, saved = writer.save(result(0), blocked), writer.save(result(1), FLAT)
    with pytest.raises(StorageError, match="file"):
        failed.result(10)
    assert saved.result(10).path is not None


def test_a_failed_write_leaves_no_file_behind(
    writer: ImageWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        writer.save(result(), FLAT).result(10)
    assert names(tmp_path / SAMPLES) == []


def test_a_picture_that_cannot_be_encoded_fails_its_future(writer: ImageWriter) -> None:
    with pytest.raises(InvalidRequest):
        writer.save(result(), replace(FLAT, samples_format="tiff")).result(10)
    assert writer.save(result(), FLAT).result(10).path is not None


def test_closing_writes_what_waits_and_refuses_more(tmp_path: Path) -> None:
    writer = ImageWriter(Paths.under(tmp_path))
    futures = [writer.save(result(index), FLAT) for index in range(20)]
    writer.close()
    writer.close()
    assert all(future.done() for future in futures)
    assert len(names(tmp_path / SAMPLES)) == 20
    with pytest.raises(StorageError, match="closing"):
        writer.save(result(), FLAT).result(0)
    ImageWriter(Paths.under(tmp_path)).close()


class HeldUp:
    """Pixels whose encoding waits for a gate: a slow disk that a test can open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        fsync = os.fsync

        def slow(descriptor: int) -> None:
            assert self.open.wait(20)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", slow)


def test_a_full_queue_makes_the_caller_wait_and_an_empty_one_takes_any_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = HeldUp(monkeypatch)
    picture_bytes = 64 * 64 * 3
    writer = ImageWriter(Paths.under(tmp_path), max_waiting_bytes=2 * picture_bytes)
    accepted: list[int] = []

    def client() -> None:
        for index in range(6):
            writer.save(result(index, size=64), FLAT)
            accepted.append(index)

    thread = threading.Thread(target=client)
    thread.start()
    thread.join(0.5)
    # One is being written, two wait; the fourth has to.
    assert thread.is_alive() and len(accepted) == 3
    disk.open.set()
    thread.join(10)
    assert len(accepted) == 6
    huge = writer.save(result(7, size=256), FLAT)
    assert huge.result(10).path is not None
    writer.close()


def test_a_cancelled_picture_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = HeldUp(monkeypatch)
    writer = ImageWriter(Paths.under(tmp_path))
    writer.save(result(0), FLAT)
    waiting = writer.save(result(1), FLAT)
    assert waiting.cancel()
    disk.open.set()
    writer.close()
    assert names(tmp_path / SAMPLES) == ["00000-100.png"]


def test_next_number_counts_only_its_own_prefix(tmp_path: Path) -> None:
    assert next_number(tmp_path) == 0
    for name in ("00003-1.png", "00010.png", "grid-0100.png", "12x.png", ".00099.png.tmp"):
        (tmp_path / name).touch()
    assert next_number(tmp_path) == 11
    assert next_number(tmp_path, "grid-") == 101


def test_the_same_pixels_give_the_same_file(writer: ImageWriter) -> None:
    files = [writer.save(result(), FLAT).result(10).data for _ in range(2)]
    assert len({hashlib.sha256(file).digest() for file in files}) == 1
