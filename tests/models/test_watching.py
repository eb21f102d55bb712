"""Model files that come and go are seen without a refresh, and nothing is opened for nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from scripts.make_tiny_checkpoints import write_checkpoint
from sdforge.core.paths import Paths
from sdforge.models.families.sd_keys import Sizes
from sdforge.models.library import Library
from sdforge.models.watching import ModelWatcher, folder_state
from tests.tiny import sparse_checkpoint

SMALL = Sizes(
    unet_width=32, unet_factors=(1, 2), text_width=32, text_layers=1, vocabulary=60,
    vae_width=32, vae_factors=(1, 2), blocks=1,
)  # fmt: skip


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths.under(tmp_path)
    for folder in paths.standard:
        folder.mkdir(parents=True)
    write_checkpoint(paths.checkpoints[0] / "a.safetensors", SMALL, metadata={})
    return paths


@pytest.fixture
def library(paths: Paths) -> Library:
    return Library(paths)


@pytest.fixture
def watcher(library: Library) -> ModelWatcher:
    library.checkpoints()
    watcher = ModelWatcher(library)
    assert not watcher.look()
    return watcher


def names(library: Library) -> list[str]:
    return [info.relative for info in library.checkpoints()]


def touch_folder(folder: Path) -> None:
    """Give a folder another time, also where the clock of the file system is coarse."""
    stat = folder.stat()
    os.utime(folder, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))


def test_what_is_added_and_removed_shows(
    paths: Paths, library: Library, watcher: ModelWatcher
) -> None:
    assert not watcher.look()
    before = library.changes
    below = paths.checkpoints[0] / "sub"
    below.mkdir()
    shutil.copy(paths.checkpoints[0] / "a.safetensors", below / "b.safetensors")
    touch_folder(paths.checkpoints[0])
    assert watcher.look()
    assert names(library) == ["a.safetensors", "sub/b.safetensors"]
    assert library.changes > before
    assert not watcher.look()
    (below / "b.safetensors").unlink()
    touch_folder(below)
    assert watcher.look()
    assert names(library) == ["a.safetensors"]


def test_a_file_that_is_still_being_written_shows_when_it_is_whole(
    paths: Paths, library: Library, watcher: ModelWatcher
) -> None:
    whole = (paths.checkpoints[0] / "a.safetensors").read_bytes()
    growing = paths.checkpoints[0] / "b.safetensors"
    growing.write_bytes(whole[: len(whole) // 2])
    touch_folder(paths.checkpoints[0])
    assert watcher.look()
    assert "truncated" in (library.find("b.safetensors").error or "")
    assert not watcher.look()
    with growing.open("ab") as file:
        file.write(whole[len(whole) // 2 :])
    assert watcher.look(), "its folder did not change, but the file did"
    assert library.find("b.safetensors").error is None


def test_files_of_other_kinds_show_too(
    paths: Paths, library: Library, watcher: ModelWatcher
) -> None:
    assert library.loras.loras() == []
    sparse_checkpoint(
        paths.loras[0] / "style.safetensors",
        {"lora_unet_x.lora_up.weight": (4, 1), "lora_unet_x.lora_down.weight": (1, 4)},
    )
    touch_folder(paths.loras[0])
    assert watcher.look()
    assert [info.name for info in library.loras.loras()] == ["style"]


def test_files_that_did_not_change_are_not_opened_again(
    paths: Paths, library: Library, watcher: ModelWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    real = Path.open

    def watched(self: Path, *args: object, **values: object) -> object:
        opened.append(self)
        return real(self, *args, **values)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", watched)
    touch_folder(paths.checkpoints[0])
    assert watcher.look()
    assert [path for path in opened if path.suffix == ".safetensors"] == []


def test_links_in_a_circle_end_and_hidden_folders_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a" / ".cache").mkdir(parents=True)
    (tmp_path / "a" / "b").mkdir()
    (tmp_path / "a" / "b" / "back").symlink_to(tmp_path / "a")
    found = folder_state([tmp_path / "a", tmp_path / "nowhere"])
    assert {Path(path).name for path in found} == {"a", "b"}
