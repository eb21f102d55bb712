"""The pictures on disk: found, marked, thrown away, brought back, imported."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdforge.core.errors import InvalidRequest, NotFound
from sdforge.core.paths import Paths
from sdforge.core.settings import SettingsStore
from sdforge.engine.database import Database
from sdforge.engine.history import History
from sdforge.engine.history_store import HistoryStore, Picture, Search, match_expression
from tests.engine.conftest import Build
from tests.engine.fakes import PATIENCE, a_request


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    paths = Paths.under(tmp_path)
    database = Database(paths.database)
    history = History(HistoryStore(database), paths, SettingsStore(None))
    yield history
    history.close()
    database.close()


def saved(folder: Path, name: str, infotext: str = "", colour: str = "red") -> Path:
    path = folder / "outputs" / "txt2img-images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    if infotext:
        info.add_text("parameters", infotext)
    Image.new("RGB", (40, 20), colour).save(path, pnginfo=info)
    return path


INFOTEXT = "a {}\nNegative prompt: dull\nSteps: 9, Sampler: Euler, Seed: {}, Size: 40x20, Model: m"


def imported(history: History) -> Any:
    history.start_import()
    thread = history._importing
    assert thread is not None
    thread.join(PATIENCE)
    status = history.import_status()
    assert not status.is_running and status.error is None
    return status


def found(history: History, **search: Any) -> list[str]:
    _, pictures = history.search(Search(**search))
    return [Path(picture.path).name for picture in pictures]


def test_every_saved_picture_of_a_job_is_in_the_history(build: Build) -> None:
    engine, _ = build()
    engine.start()
    request = a_request("a red fox", negative_prompt="dull", batch_size=2, seed=7)
    job = engine.wait(engine.submit(request, save_images=True).id, PATIENCE)
    engine.wait(engine.submit(a_request("not saved"), save_images=False).id, PATIENCE)
    total, pictures = engine.history.search(Search(words="red fox"))
    assert total == 2
    newest = pictures[0]
    assert (newest.job, newest.image, newest.seed) == (job.id, 1, 8)
    assert (newest.prompt, newest.negative_prompt) == ("a red fox", "dull")
    data, media_type = engine.history.data(newest.number)
    assert (len(data), media_type) == (newest.bytes, "image/png")
    assert engine.history.search(Search())[0] == 2


def test_pictures_are_found_by_words_marks_and_numbers(history: History, tmp_path: Path) -> None:
    for number, thing in enumerate(("red fox", "blue owl", "red owl, night_sky")):
        saved(tmp_path, f"{number}.png", INFOTEXT.format(thing, number))
    assert imported(history).added == 3
    assert found(history) == ["2.png", "1.png", "0.png"]
    assert found(history, words="red") == ["2.png", "0.png"]
    assert found(history, words="RED ow") == ["2.png"]
    assert found(history, words='"blue owl"') == ["1.png"]
    assert found(history, words="owl -blue") == ["2.png"]
    assert found(history, words="night_sky") == ["2.png"]
    assert found(history, words="Euler") == ["2.png", "1.png", "0.png"]
    assert found(history, seed=1) == ["1.png"]
    assert found(history, model="m", limit=1, offset=1) == ["1.png"]
    assert found(history, kind="txt2img") == []
    number = history.search(Search(seed=0))[1][0].number
    assert history.set_favourite(number, True).is_favourite
    assert found(history, is_favourite=True) == ["0.png"]
    assert history.counts() == {"pictures": 3, "favourites": 1, "trash": 0}
    with pytest.raises(NotFound):
        history.set_favourite(99, True)


@given(st.text(max_size=40))
def test_whatever_is_typed_is_words_and_never_an_operator(text: str) -> None:
    try:
        expression = match_expression(text)
    except InvalidRequest:
        expression = None
    if expression is not None:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.execute("CREATE VIRTUAL TABLE t USING fts5(a)")
            asked = "SELECT * FROM t WHERE t MATCH ?"
            assert connection.execute(asked, (expression,)).fetchall() == []


def test_a_picture_goes_to_the_trash_and_comes_back(history: History, tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", INFOTEXT.format("fox", 1))
    data = path.read_bytes()
    imported(history)
    (picture,) = history.search(Search())[1]
    assert history.trash([picture.number, 99]).failed == {99: "the history has no picture 99"}
    assert not path.exists()
    assert found(history) == [] and found(history, in_trash=True) == ["a.png"]
    assert history.data(picture.number)[0] == data
    assert history.restore([picture.number]).numbers == (picture.number,)
    assert path.read_bytes() == data
    assert found(history, words="fox") == ["a.png"]


def test_a_name_that_was_taken_meanwhile_gets_an_ending(history: History, tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", INFOTEXT.format("fox", 1))
    imported(history)
    (picture,) = history.search(Search())[1]
    history.trash([picture.number])
    saved(tmp_path, "a.png", colour="blue")
    history.restore([picture.number])
    assert Path(history.get(picture.number).path) == path.with_name("a-1.png")
    assert found(history, words="fox") == ["a-1.png"]


def test_the_trash_is_emptied_when_told_and_after_some_days(
    history: History, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png"):
        saved(tmp_path, name, name)
    imported(history)
    numbers = [picture.number for picture in history.search(Search())[1]]
    history.trash(numbers[:1])
    assert history.empty_trash() == 0
    history._store.update(numbers[0], trashed_at=time.time() - 31 * 86400)
    history.trash(numbers[1:])
    assert found(history, in_trash=True) == ["a.png"]
    assert history.empty_trash(0) == 1
    assert list((tmp_path / "trash").iterdir()) == []
    with pytest.raises(NotFound):
        history.get(numbers[0])


def test_copies_are_thrown_away_but_the_marked_or_oldest_one(
    history: History, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        saved(tmp_path, name, "same")
    saved(tmp_path, "d.png", "other")
    imported(history)
    history.set_favourite(history.search(Search())[1][2].number, True)
    gone = history.trash_copies()
    assert len(gone.numbers) == 2 and not gone.failed
    assert found(history) == ["d.png", "b.png"]
    assert history.trash_copies().numbers == ()


def test_an_import_knows_what_it_has_seen_and_what_is_gone(
    history: History, tmp_path: Path
) -> None:
    saved(tmp_path, "a.png", INFOTEXT.format("fox", 1))
    bad = tmp_path / "outputs" / "txt2img-images" / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    (bad.parent / "notes.txt").write_text("no picture")
    status = imported(history)
    assert (status.found, status.added, status.skipped) == (2, 1, 1)
    assert imported(history).added == 0
    (picture,) = history.search(Search())[1]
    assert (picture.kind, picture.width, picture.height, picture.seed) == ("imported", 40, 20, 1)
    moved = tmp_path / "elsewhere.png"
    Path(picture.path).rename(moved)
    assert imported(history).missing == 1
    assert found(history) == []
    moved.rename(picture.path)
    imported(history)
    assert found(history) == ["a.png"]


def test_an_import_follows_no_links_out_of_the_folders(history: History, tmp_path: Path) -> None:
    outside = saved(tmp_path / "private", "secret.png", "secret")
    folder = tmp_path / "outputs" / "txt2img-images"
    folder.mkdir(parents=True)
    (folder / "link.png").symlink_to(outside)
    (folder / "linked").symlink_to(outside.parent)
    assert imported(history).added == 0


def test_thumbnails_are_small_and_made_once(history: History, tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", "x")
    Image.new("RGB", (400, 200), "red").save(path)
    imported(history)
    number = history.search(Search())[1][0].number
    first = history.thumbnail(number, 64)
    small = tmp_path / "thumb.webp"
    small.write_bytes(first)
    with Image.open(small) as image:
        assert (image.format, image.size) == ("WEBP", (64, 32))
    path.unlink()
    assert history.thumbnail(number, 64) == first
    with pytest.raises(NotFound):
        history.thumbnail(number, 128)


@pytest.mark.slow
def test_a_hundred_thousand_pictures_are_searched_in_an_instant(
    history: History, record_property: Callable[[str, object], None]
) -> None:
    things = ("red fox", "blue owl", "green tree", "old ship")
    history._store.add(
        Picture(
            path=f"/pictures/{number}.png", sha256=f"{number:064x}", bytes=1, width=8, height=8,
            media_type="image/png", kind="txt2img", created_at=float(number),
            prompt=f"a {things[number % 4]} by painter{number % 997}", seed=number,
            infotext=f"a {things[number % 4]}\nSteps: 20, Seed: {number}",
        )
        for number in range(100_000)
    )  # fmt: skip
    for search in (Search(words="painter77 owl"), Search(words="fox"), Search(seed=5)):
        times = []
        for _ in range(5):
            began = time.perf_counter()
            total, pictures = history.search(search)
            times.append(time.perf_counter() - began)
        assert total and pictures
        record_property(f"{search.words or search.seed} ms", sorted(times)[2] * 1000)


def test_a_database_of_the_version_before_is_brought_up_to_date(tmp_path: Path) -> None:
    from sdforge.engine.database_schema import MIGRATIONS
    from sdforge.engine.store import JobStore
    from tests.engine.test_store import a_job

    path = tmp_path / "old.sqlite3"
    store = JobStore(Database(path))
    store.add(a_job("a"))
    rows = store._database.select("SELECT * FROM jobs")
    store._database.close()
    path.unlink()
    old = sqlite3.connect(path)
    for statement in MIGRATIONS[0]:
        old.execute(statement)
    names = [name[1] for name in old.execute("PRAGMA table_info(jobs)")]
    marks = ", ".join("?" * len(names))
    old.execute(f"INSERT INTO jobs VALUES ({marks})", [rows[0][name] for name in names])
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    again = JobStore(Database(path))
    job = again.get("a")
    assert job is not None and job.rank == 1.0 and job.terms.priority == 0
    assert [one.id for one in again.recover()] == ["a"]
    again._database.close()
