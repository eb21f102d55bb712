"""The thread that encodes and saves pictures, so that the device never waits for a disk.

Pictures are taken in order. A full queue (counted in bytes of pixels) makes `save` wait, so a slow
disk slows the jobs down instead of filling the memory. A picture that cannot be saved fails its own
future and no other.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from sdforge.core.errors import StorageError
from sdforge.core.paths import Paths
from sdforge.core.result import ImageResult
from sdforge.core.settings import Settings, write_atomically
from sdforge.output.grid import grid_rows, make_grid
from sdforge.output.images import MEDIA_TYPES, encode_image
from sdforge.output.infotext import processed_text, with_processing, write_infotext
from sdforge.output.new_file import remove_left, write_new
from sdforge.output.patterns import NameSource, clean_name, file_stem, folder_parts

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

log = logging.getLogger(__name__)

# Pixels that may wait to be written, in bytes: 64 pictures of 1024².
_MAX_WAITING_BYTES = 192 * 1024 * 1024
GRID_INDEX = -1


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """A picture as a file; `path` is None when it was not saved, `index` -1 for a grid.

    `processing` says what extras did to it.
    """

    index: int
    data: bytes
    media_type: str
    path: Path | None
    infotext: str
    seed: int
    width: int
    height: int
    processing: str = ""


@dataclass(frozen=True, kw_only=True)
class _Target:
    """Naming of one kind of picture: samples (`00000-<name>`) or grids (`grid-0000`)."""

    folder: Path
    sub_folders: bool
    prefix: str
    digits: int
    pattern: str
    numbered: bool
    suffix: str = ""
    # Taken as it is, in place of the pattern.
    stem: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    """One picture to encode, and where it goes."""

    pixels: Callable[[], npt.NDArray[np.uint8]]
    size_bytes: int
    result: ImageResult
    settings: Settings
    started_at: datetime | None
    target: _Target | None
    format: str
    index: int
    future: Future[EncodedImage]


class ImageWriter:
    """Encodes and saves pictures on a thread of its own, in the order they come."""

    def __init__(self, paths: Paths, *, max_waiting_bytes: int = _MAX_WAITING_BYTES) -> None:
        self._paths = paths
        self._max_waiting_bytes = max_waiting_bytes
        self._condition = threading.Condition()
        self._tasks: deque[_Task] = deque()
        self._waiting_bytes = 0
        self._thread: threading.Thread | None = None
        self._closed = False
        self._looked_at: set[Path] = set()

    def save(
        self,
        result: ImageResult,
        settings: Settings,
        *,
        folder_setting: str = "outdir_txt2img_samples",
        save: bool = True,
        started_at: datetime | None = None,
    ) -> Future[EncodedImage]:
        """Encode a picture and, with `save`, write it into the folder that a setting names.

        `settings` is the job's snapshot, `started_at` the job's start for `[job_timestamp]`.
        Waits while too much is waiting already. The future fails with `StorageError` when the
        file cannot be written.
        """
        if result.processed is not None:
            target = self._processed_target(result, settings, folder_setting)
            return self._submit(_task(result, settings, target if save else None, started_at))
        # A request that names its folder or its file wins over the settings' patterns.
        request = result.info.request
        with_folders = settings.save_to_dirs and not request.folder
        default_pattern = "[seed]" if with_folders else "[seed]-[prompt_spaces]"
        folder = request.folder or str(getattr(settings, folder_setting))
        target = _Target(
            folder=self._paths.resolve_output(folder),
            sub_folders=with_folders,
            prefix="",
            digits=5,
            pattern=settings.samples_filename_pattern or default_pattern,
            numbered=settings.save_images_add_number and not request.file_name,
            suffix=result.suffix,
            stem=clean_name(request.file_name) if request.file_name else None,
        )
        return self._submit(_task(result, settings, target if save else None, started_at))

    def _processed_target(
        self, result: ImageResult, settings: Settings, folder_setting: str
    ) -> _Target:
        """Return where a picture goes that was processed: a flat folder, its own name or none."""
        extras, processed = result.info.request.extras, result.processed
        named = processed.name if processed and settings.use_original_name_batch else ""
        folder = extras.folder if extras else ""
        return _Target(
            folder=self._paths.resolve_output(folder or str(getattr(settings, folder_setting))),
            sub_folders=False,
            prefix="",
            digits=5,
            pattern="",
            numbered=not named,
            stem=clean_name(named),
        )

    def save_grid(
        self,
        results: Sequence[ImageResult],
        settings: Settings,
        *,
        folder_setting: str = "outdir_txt2img_grids",
        save: bool = True,
    ) -> Future[EncodedImage]:
        """Encode and save the contact sheet of a job, with the first picture's infotext."""
        request = results[0].info.request
        rows = grid_rows(len(results), settings.n_rows, request.batch_size)
        target = _Target(
            folder=self._paths.resolve_output(str(getattr(settings, folder_setting))),
            sub_folders=settings.grid_save_to_dirs,
            prefix="grid-",
            digits=4,
            pattern="[none]",
            numbered=True,
        )
        pictures = [result.pixels for result in results]
        return self._submit(
            _Task(
                pixels=lambda: make_grid(pictures, rows),
                size_bytes=sum(picture.nbytes for picture in pictures),
                result=results[0],
                settings=settings,
                started_at=None,
                target=target if save else None,
                format=settings.grid_format,
                index=GRID_INDEX,
                future=Future(),
            )
        )

    def close(self) -> None:
        """Write what waits, then end the thread. Calling it again does nothing."""
        with self._condition:
            self._closed = True
            thread = self._thread
            self._condition.notify_all()
        if thread is not None:
            thread.join()

    def _submit(self, task: _Task) -> Future[EncodedImage]:
        with self._condition:
            # A single picture larger than the limit must still get through.
            self._condition.wait_for(
                lambda: (
                    self._closed
                    or not self._tasks
                    or self._waiting_bytes + task.size_bytes <= self._max_waiting_bytes
                )
            )
            if self._closed:
                task.future.set_exception(StorageError("pictures are no longer saved: closing"))
                return task.future
            self._tasks.append(task)
            self._waiting_bytes += task.size_bytes
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="image-writer", daemon=True)
                self._thread.start()
            self._condition.notify_all()
        return task.future

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._tasks or self._closed)
                if not self._tasks:
                    return
                task = self._tasks.popleft()
                self._waiting_bytes -= task.size_bytes
                self._condition.notify_all()
            if not task.future.set_running_or_notify_cancel():
                continue
            try:
                encoded = _perform(task)
            # Whatever happens to one picture, the thread goes on with the next.
            except Exception as error:  # noqa: BLE001
                log.error("picture %d of seed %d was not written: %s",
                          task.index, task.result.info.seed, error)  # fmt: skip
                task.future.set_exception(error)
            else:
                task.future.set_result(encoded)
                self._tidy(encoded.path)

    def _tidy(self, path: Path | None) -> None:
        """Remove what a crash left in a folder, once it is written to."""
        if path is not None and path.parent not in self._looked_at:
            self._looked_at.add(path.parent)
            remove_left(path.parent)


def _task(
    result: ImageResult, settings: Settings, target: _Target | None, started_at: datetime | None
) -> _Task:
    """Return what it takes to write one picture."""
    return _Task(
        pixels=lambda: result.pixels,
        size_bytes=result.pixels.nbytes,
        result=result,
        settings=settings,
        started_at=started_at,
        target=target,
        format=settings.samples_format,
        index=result.index,
        future=Future(),
    )


def _texts(result: ImageResult, settings: Settings) -> tuple[str, Mapping[str, str] | None]:
    """Return a picture's infotext, and the text chunks of its PNG where they are others.

    A1111 keeps what a processed picture said, and tells in two chunks how it was processed.
    """
    processed = result.processed
    if processed is None:
        return write_infotext(result.info, settings), None
    steps = processed_text(processed)
    texts = {"parameters": processed.infotext, "postprocessing": steps, "extras": steps}
    return with_processing(processed), {key: text for key, text in texts.items() if text}


def _perform(task: _Task) -> EncodedImage:
    settings = task.settings
    pixels = task.pixels()
    infotext, texts = _texts(task.result, settings)
    data = encode_image(
        pixels,
        task.format,
        infotext=infotext if settings.enable_pnginfo else None,
        quality=settings.jpeg_quality,
        lossless=settings.webp_lossless,
        texts=texts if settings.enable_pnginfo else None,
    )
    path = None
    if task.target is not None:
        now = datetime.now().astimezone()
        source = NameSource(
            info=task.result.info,
            settings=settings,
            pixels=pixels,
            now=now,
            started_at=task.started_at or now,
        )
        path = _write(task.target, source, data, task.format.lower())
        if settings.save_txt:
            write_atomically(path.with_suffix(".txt"), f"{infotext}\n".encode("utf-8", "replace"))
    return EncodedImage(
        index=task.index,
        data=data,
        media_type=MEDIA_TYPES[task.format.lower()],
        path=path,
        infotext=infotext,
        seed=task.result.info.seed,
        width=pixels.shape[1],
        height=pixels.shape[0],
        processing=(texts or {}).get("postprocessing", ""),
    )


def _write(target: _Target, source: NameSource, data: bytes, extension: str) -> Path:
    """Write a picture under a name that no file has, and return the path.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    folder = target.folder
    if target.sub_folders:
        pattern = source.settings.directories_filename_pattern or "[prompt_words]"
        folder = folder / folder_parts(pattern, source)
    try:
        stem = file_stem(target.pattern, source) if target.stem is None else target.stem
        stem += target.suffix
        return write_new(folder, _names(folder, target, stem, extension), data)
    except OSError as error:
        raise StorageError(f"could not write into {folder}: {error.strerror or error}") from error


def _names(folder: Path, target: _Target, stem: str, extension: str) -> Iterator[str]:
    """Yield the names to try: numbers from the next one on, or the bare name and then numbers."""
    if target.numbered or not stem:
        for number in count(next_number(folder, target.prefix)):
            name = f"{target.prefix}{number:0{target.digits}}" + (f"-{stem}" if stem else "")
            yield f"{name}.{extension}"
    else:
        yield f"{stem}.{extension}"
        yield from (f"{stem}-{number}.{extension}" for number in count(1))


def next_number(folder: Path, prefix: str = "") -> int:
    """Return the largest number that a file name in `folder` begins with, plus one; else 0."""
    numbered = re.compile(re.escape(prefix) + r"(\d{1,9})(?:[-.]|$)")
    with os.scandir(folder) as entries:
        matches = (numbered.match(entry.name) for entry in entries)
        return max((int(match[1]) for match in matches if match), default=-1) + 1
