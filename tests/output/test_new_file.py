"""Files that appear whole or not at all, also where a server was killed in the middle."""

import os
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from sdforge.output.new_file import LEFT_SECONDS, remove_left, write_new

ROOT = Path(__file__).parents[2]
# Dies after the bytes are written and before the file has its name.
_VICTIM = """
import os, sys
from pathlib import Path
from sdforge.output import new_file

os.link = lambda *_: os._exit(9)
new_file.write_new(Path(sys.argv[1]), ["picture.png"], b"whole")
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_first_name_that_is_free_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    for data in (b"0", b"1", b"2"):
        path = write_new(folder, (f"{number}.png" for number in count()), data)
        assert path.read_bytes() == data
    assert names(folder) == ["0.png", "1.png", "2.png"]


def test_without_hard_links_no_file_is_overwritten_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for data in (b"0", b"1"):
        assert write_new(tmp_path, ("a.png", "b.png"), data).read_bytes() == data
    with pytest.raises(FileExistsError):
        write_new(tmp_path, ("a.png", "b.png"), b"2")
    assert names(tmp_path) == ["a.png", "b.png"]


def test_a_process_that_dies_on_the_way_leaves_no_picture_by_any_name(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", _VICTIM, str(tmp_path)], cwd=ROOT)
    assert run.returncode == 9
    (left,) = names(tmp_path)
    assert left.startswith(".") and not left.endswith(".png")

    remove_left(tmp_path)
    assert names(tmp_path) == [left], "it may be another server's that still writes"
    long_ago = time.time() - LEFT_SECONDS - 60
    os.utime(tmp_path / left, (long_ago, long_ago))
    (tmp_path / ".hidden").touch()
    os.utime(tmp_path / ".hidden", (long_ago, long_ago))
    remove_left(tmp_path)
    assert names(tmp_path) == [".hidden"]
