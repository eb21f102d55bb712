"""The pictures that clients sent with their jobs: files named by their SHA-256.

A picture is stored before its job, so a queued job survives a restart whole. Files that no waiting
job refers to leave after some days, or when the folder grows too large.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path

from sdforge.core.errors import NotFound
from sdforge.core.inputs import InputImage
from sdforge.core.settings import write_atomically

log = logging.getLogger(__name__)

_NAME = re.compile(r"[0-9a-f]{64}")
# A picture is stored a moment before its job is; nothing younger is ever removed.
_GRACE_SECONDS = 3600.0
# Above this they are checked one at a time.
_LARGE_PIXELS = 8 * 1024 * 1024


class InputFolder:
    """The folder of input pictures; safe to use from any thread."""

    def __init__(self, folder: Path) -> None:
        """Create nothing yet."""
        self._folder = folder
        self._large = threading.Lock()

    def put(self, data: bytes, field: str, *, max_pixels: int) -> InputImage:
        """Check a picture by reading it whole, store it, and return what requests call it.

        Args:
            data: the file as it was sent.
            field: what errors call it.
            max_pixels: the largest that is taken.

        Raises:
            InvalidRequest: damaged, too large, or of a format that is not read.
            StorageError: the disk is full or not writable.
        """
        # Pillow is loaded with the first picture, not at start.
        from sdforge.postprocess.decoding import decode_picture, promised_pixels

        # Many clients may send at once, and a large picture takes half a gigabyte to check.
        is_large = promised_pixels(data) > _LARGE_PIXELS
        with self._large if is_large else nullcontext():
            picture = decode_picture(data, field, max_pixels=max_pixels)
            size = picture.size
            del picture
        name = hashlib.sha256(data).hexdigest()
        path = self._folder / name
        try:
            # The same picture again: it counts as new from now on.
            os.utime(path)
        except OSError:
            write_atomically(path, data)
        return InputImage(name, *size)

    def read(self, image: InputImage) -> bytes:
        """Return a stored file; raises `NotFound`."""
        path = self._path(image)
        try:
            return path.read_bytes()
        except OSError as error:
            raise _gone(image, error) from error

    def check(self, image: InputImage) -> None:
        """Raise `NotFound` unless a picture is there; reads nothing."""
        path = self._path(image)
        try:
            path.stat()
        except OSError as error:
            raise _gone(image, error) from error

    def _path(self, image: InputImage) -> Path:
        if not _NAME.fullmatch(image.sha256):
            raise NotFound(f"{image.sha256[:80]!r} is no name of a stored picture")
        return self._folder / image.sha256

    def clean(self, in_use: Collection[str], *, keep_days: float, max_bytes: int) -> int:
        """Remove what no job waits for, the oldest first; return how many files went.

        Args:
            in_use: names of pictures that stay in any case.
            keep_days: older ones go.
            max_bytes: and as many more as it takes to get below.
        """
        now = time.time()
        old = sorted(
            (stat.st_mtime, stat.st_size, path)
            for path, stat in self._files()
            if path.name not in in_use and now - stat.st_mtime > _GRACE_SECONDS
        )
        total = sum(size for _, size, _ in old)
        removed = 0
        for modified, size, path in old:
            if now - modified <= keep_days * 86400 and total <= max_bytes:
                continue
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("could not remove %s: %s", path, error.strerror)
                continue
            total -= size
            removed += 1
        return removed

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        try:
            with os.scandir(self._folder) as entries:
                return [
                    (Path(entry.path), entry.stat())
                    for entry in entries
                    if _NAME.fullmatch(entry.name)
                ]
        except OSError:
            return []


def _gone(image: InputImage, error: OSError) -> NotFound:
    return NotFound(
        f"the input picture {image.sha256[:12]} is no longer there ({error.strerror}); "
        "send it again"
    )
