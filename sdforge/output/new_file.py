"""Files that appear whole, under a name that nobody has: two servers may share a folder.

A file is written under a hidden name, brought to the disk, and only then gets its own, so that a
crash at any moment leaves a whole picture or none. What a crash leaves under hidden names is
removed by whoever writes into that folder later.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterable
from pathlib import Path

_HIDDEN = re.compile(r"\.sdforge-\d+-\d+\.tmp")
# Nobody writes a picture for so long: it was left by a server that is gone.
LEFT_SECONDS = 3600.0


def write_new(folder: Path, names: Iterable[str], data: bytes) -> Path:
    """Write a file into a folder, made if need be, under the first name that is free.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hidden = folder / f".sdforge-{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        with hidden.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        for name in names:
            with contextlib.suppress(FileExistsError):
                _publish(hidden, folder / name)
                return folder / name
    finally:
        with contextlib.suppress(OSError):
            hidden.unlink()
    raise FileExistsError(17, f"no name is free in {folder}")


def remove_left(folder: Path) -> None:
    """Remove what a crash left under hidden names in a folder; what cannot be removed stays."""
    oldest = time.time() - LEFT_SECONDS
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _HIDDEN.fullmatch(entry.name) and entry.stat().st_mtime < oldest:
                Path(entry.path).unlink()


def _publish(hidden: Path, path: Path) -> None:
    """Give a finished file its name; raises `FileExistsError` when somebody has that."""
    try:
        os.link(hidden, path)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links, such as exFAT. The name is taken by an empty file
        # first; a crash between the two lines leaves that, the one case in which one may.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            hidden.replace(path)
        except OSError:
            path.unlink(missing_ok=True)
            raise
