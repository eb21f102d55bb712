"""One file from a hub onto the disk: resumed where it stopped, checked by its hash, whole or none.

What has arrived lies beside the target under a name that begins with a dot and holds the hash, so
that no list shows it and no other version continues it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from sdforge.core.errors import Cancelled, MissingModel, StorageError
from sdforge.core.hub import Hub, HubFile
from sdforge.core.outbound import Answer, OutboundRefused, ask

# Left free on the disk beside the file.
SPARE_BYTES = 512 * 2**20
_MOST_BYTES = 2**42
_MOST_REDIRECTS = 5
# Broken connections in a row, with nothing new in between, after which it is given up.
_ATTEMPTS = 3
_PAUSE_SECONDS = 1.0
_READ_BYTES = 4 * 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Promise:
    """What the hub says of a file: its length, and its SHA-256 or git's name of it."""

    size_bytes: int
    hash: str

    def digest(self) -> hashlib._Hash:
        if len(self.hash) == 64:
            return hashlib.sha256()
        # Git names a file by the SHA-1 over its length and itself; nothing secret hangs on it.
        start = b"blob %d\0" % self.size_bytes
        return hashlib.sha1(start, usedforsecurity=False)


def download(
    file: HubFile,
    target: Path,
    hub: Hub,
    on_progress: Progress,
    cancelled: threading.Event,
) -> str:
    """Fetch a file and return its hash, as the hub names it.

    Args:
        file: which.
        target: where it is put; there must be none yet.
        hub: whom to ask.
        on_progress: called with the bytes that are there and the bytes there will be.
        cancelled: set by whoever wants it to stop; what has arrived is kept.

    Raises:
        MissingModel: the hub cannot be reached, does not have it, or sent something else.
        StorageError: the disk has no room or cannot be written.
        Cancelled: somebody stopped it.
    """
    address, promise = _promised(file, hub)
    part = target.with_name(f".{target.name}.{promise.hash[:16]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_room(target.parent, promise, part)
        with part.open("r+b" if part.exists() else "x+b") as stream:
            arrival = _Arrival(stream, promise, on_progress, cancelled)
            arrival.take_up()
            _receive(arrival, address, hub, cancelled, file)
            stream.flush()
            os.fsync(stream.fileno())
        if arrival.digest.hexdigest() != promise.hash:
            part.unlink()
            raise MissingModel(
                f"{file} arrived damaged: its hash is not the one that {hub.host} names; it was "
                "thrown away, try again"
            )
        _put(part, target)
    except OSError as error:
        raise StorageError(f"could not write {target}: {error.strerror or error}") from error
    return promise.hash


def _put(part: Path, target: Path) -> None:
    """Give the whole file its name, unless another file has taken it meanwhile."""
    if target.exists():
        raise StorageError(f"{target.name} appeared in {target.parent} meanwhile; nothing replaced")
    part.replace(target)


class _Arrival:
    """The bytes that are there, and their hash so far."""

    def __init__(
        self,
        stream: BinaryIO,
        promise: _Promise,
        on_progress: Progress,
        cancelled: threading.Event,
    ) -> None:
        self._stream = stream
        self._on_progress = on_progress
        self._cancelled = cancelled
        self.promise = promise
        self.digest = promise.digest()
        self.count = 0

    @property
    def is_whole(self) -> bool:
        return self.count == self.promise.size_bytes

    def take_up(self) -> None:
        """Count and hash what an earlier attempt left."""
        if os.fstat(self._stream.fileno()).st_size > self.promise.size_bytes:
            self._stream.truncate(0)
        while data := self._stream.read(_READ_BYTES):
            self._count(data)

    def begin_again(self) -> None:
        self._stream.seek(0)
        self._stream.truncate()
        self.digest, self.count = self.promise.digest(), 0

    def put(self, data: bytes) -> None:
        if self.count + len(data) > self.promise.size_bytes:
            raise OutboundRefused("more came than the hub had said")
        self._stream.write(data)
        self._count(data)

    def _count(self, data: bytes) -> None:
        if self._cancelled.is_set():
            raise Cancelled("the download was stopped; what has arrived is kept")
        self.digest.update(data)
        self.count += len(data)
        self._on_progress(self.count, self.promise.size_bytes)


def _receive(
    arrival: _Arrival, address: str, hub: Hub, cancelled: threading.Event, file: HubFile
) -> None:
    """Ask for what is missing until it is there."""
    failures = 0
    while not arrival.is_whole:
        before, reason = arrival.count, "the connection ended early"
        try:
            _receive_some(arrival, address, hub)
        except OutboundRefused as error:
            reason = str(error)
        failures = failures + 1 if arrival.count <= before else 0
        if failures >= _ATTEMPTS:
            raise MissingModel(
                f"{file} could not be fetched: {reason}; {arrival.count} of "
                f"{arrival.promise.size_bytes} bytes are kept, and the next attempt goes on there"
            )
        if not arrival.is_whole and cancelled.wait(_PAUSE_SECONDS):
            raise Cancelled("the download was stopped; what has arrived is kept")


def _receive_some(arrival: _Arrival, address: str, hub: Hub) -> None:
    wanted = {"Range": f"bytes={arrival.count}-"} if arrival.count else {}
    with _followed(address, hub, wanted) as answer:
        if answer.status == 206:
            said = answer.headers.get("content-range", "")
            if not said.startswith(f"bytes {arrival.count}-"):
                raise OutboundRefused(f"another part came than was asked for ({said[:60]!r})")
        elif answer.status == 200:
            if arrival.count:
                arrival.begin_again()
        else:
            raise OutboundRefused(f"the hub answered with status {answer.status}")
        for data in answer.chunks():
            arrival.put(data)


@contextmanager
def _followed(address: str, hub: Hub, headers: Mapping[str, str]) -> Iterator[Answer]:
    """Give the answer at the end of all redirects, each looked at by the hub's rules."""
    for _ in range(_MOST_REDIRECTS):
        with ask(address, {**headers, **hub.headers(address)}, hub.rules) as answer:
            if not answer.is_redirect:
                yield answer
                return
            address = answer.redirect
    raise OutboundRefused(f"more than {_MOST_REDIRECTS} redirects")


def _promised(file: HubFile, hub: Hub) -> tuple[str, _Promise]:
    """Return where to fetch a file, and what the hub says of it."""
    address = file.address(hub.endpoint)
    try:
        # Renamed repositories redirect within the hub, and say nothing of the file.
        for _ in range(_MOST_REDIRECTS):
            with ask(address, hub.headers(address), hub.rules) as answer:
                is_named = "x-linked-etag" in answer.headers or not answer.is_redirect
                if is_named or not _is_same_host(address, answer.redirect):
                    return address, _read_promise(file, answer, hub)
                address = answer.redirect
    except OutboundRefused as error:
        raise MissingModel(
            f"{file} cannot be fetched: {error}. Is this machine online? A file that was fetched "
            "elsewhere can be put into the models folder by hand"
        ) from error
    raise MissingModel(f"{file} cannot be fetched: {hub.host} redirects in a circle")


def _is_same_host(one: str, other: str) -> bool:
    return urlsplit(one).netloc == urlsplit(other).netloc


def _read_promise(file: HubFile, answer: Answer, hub: Hub) -> _Promise:
    if answer.status in (401, 403):
        raise MissingModel(
            f"{hub.host} does not give out {file} to everybody: accept its terms on its page and "
            "start this server with an access token in HF_TOKEN"
        )
    if answer.status == 404:
        raise MissingModel(f"{hub.host} has no {file}: look at the names on its page")
    if answer.status != 200 and not answer.is_redirect:
        raise MissingModel(f"{hub.host} answered with status {answer.status} for {file}")
    said = answer.headers
    tag = (said.get("x-linked-etag") or said.get("etag", "")).removeprefix("W/").strip('"')
    size = said.get("x-linked-size") or said.get("content-length", "")
    is_known = _SHA256.fullmatch(tag) or _GIT_SHA1.fullmatch(tag)
    if not is_known or not size.isdecimal() or not 0 < int(size) < _MOST_BYTES:
        raise MissingModel(
            f"{hub.host} does not say what {file} should be (size {size[:20]!r}, hash "
            f"{tag[:70]!r}), so that it could not be checked; it was not fetched"
        )
    return _Promise(int(size), tag)


def _check_room(folder: Path, promise: _Promise, part: Path) -> None:
    there = part.stat().st_size if part.exists() else 0
    missing, free = max(promise.size_bytes - there, 0), shutil.disk_usage(folder).free
    if free < missing + SPARE_BYTES:
        raise StorageError(
            f"the file takes {missing / 2**30:.2f} GiB more and {SPARE_BYTES >> 20} MiB are to "
            f"stay free, but {folder} has room for {free / 2**30:.2f} GiB"
        )
