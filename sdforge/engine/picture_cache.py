"""Encoded pictures of jobs that are not saved to disk, kept in memory up to a bound.

The newest stay; a picture that was pushed out is gone. Saved pictures are read from their files and
never come here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

MAX_BYTES = 256 * 2**20
MAX_PICTURES = 2000


class PictureCache:
    """(job id, index) → (encoded bytes, media type); safe to use from any thread."""

    def __init__(self, max_bytes: int = MAX_BYTES, max_pictures: int = MAX_PICTURES) -> None:
        self._max_bytes = max_bytes
        self._max_pictures = max_pictures
        self._lock = threading.Lock()
        self._pictures: OrderedDict[tuple[str, int], tuple[bytes, str]] = OrderedDict()
        self._bytes = 0

    @property
    def total_bytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def put(self, job_id: str, index: int, data: bytes, media_type: str) -> None:
        """Keep a picture, dropping the oldest ones beyond the bounds."""
        with self._lock:
            previous = self._pictures.pop((job_id, index), None)
            self._bytes += len(data) - (len(previous[0]) if previous else 0)
            self._pictures[job_id, index] = (data, media_type)
            while self._bytes > self._max_bytes or len(self._pictures) > self._max_pictures:
                _, (dropped, _) = self._pictures.popitem(last=False)
                self._bytes -= len(dropped)

    def get(self, job_id: str, index: int) -> tuple[bytes, str] | None:
        """Return (bytes, media type), or None when the picture is not here."""
        with self._lock:
            return self._pictures.get((job_id, index))
