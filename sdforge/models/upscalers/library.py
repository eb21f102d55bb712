"""Which upscaler files there are, and what clients may call them.

Folders are scanned by headers alone; a file that cannot serve is listed with the reason. Names are
A1111's: Real-ESRGAN's published files have names of their own, all others are called by their
stems. Safe to use from several threads; no torch here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sdforge.core.errors import MissingModel, ModelError
from sdforge.core.paths import Paths, demo_folder
from sdforge.models.checkpoint import read_header
from sdforge.models.files import model_files
from sdforge.models.hashes import Stamp
from sdforge.models.upscalers.shapes import upscaler_shape

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
# Stems of published files → A1111's names.
PUBLISHED: Mapping[str, str] = {
    "realesr-animevideov3": "R-ESRGAN AnimeVideo",
    "realesr-general-wdn-x4v3": "R-ESRGAN General WDN 4xV3",
    "realesr-general-x4v3": "R-ESRGAN General 4xV3",
    "realesrgan_x2plus": "R-ESRGAN 2x+",
    "realesrgan_x4plus": "R-ESRGAN 4x+",
    "realesrgan_x4plus_anime_6b": "R-ESRGAN 4x+ Anime6B",
}


@dataclass(frozen=True, kw_only=True)
class UpscalerInfo:
    """One file. `scale` and `reason` say what it is, `error` why it cannot be used."""

    path: Path
    name: str
    stamp: Stamp
    scale: int = 1
    reason: str = ""
    error: str | None = None

    @property
    def stem(self) -> str:
        """The file's name without suffix."""
        return self.path.stem

    @property
    def is_published(self) -> bool:
        """Whether it is one of Real-ESRGAN's own files, going by its name."""
        return self.stem.casefold() in PUBLISHED


class UpscalerLibrary:
    """The files below the upscaler folders of `Paths` and the one that ships, scanned when asked.

    Of files of one name the first counts: the user's own go before the one that ships.
    """

    def __init__(self, paths: Paths) -> None:
        """Look nowhere yet."""
        self._paths = paths
        self._lock = threading.RLock()
        self._seen: dict[Path, UpscalerInfo] = {}
        self._infos: list[UpscalerInfo] | None = None

    def refresh(self) -> None:
        """Scan the folders again; files that did not change are not opened."""
        with self._lock:
            found: dict[Path, UpscalerInfo] = {}
            for root in (*self._paths.upscalers, demo_folder("ESRGAN")):
                for path in model_files(root, _SUFFIXES):
                    info = self._inspect(path)
                    if info is not None:
                        found.setdefault(path, info)
            self._seen = found
            named: dict[str, UpscalerInfo] = {}
            for info in found.values():
                known = named.get(info.name)
                if known is None or (known.error and not info.error):
                    named[info.name] = info
            self._infos = sorted(named.values(), key=lambda info: info.name.casefold())

    def upscalers(self) -> list[UpscalerInfo]:
        """Return all files, unusable ones too, in order of their names."""
        with self._lock:
            if self._infos is None:
                self.refresh()
            return list(self._infos or ())

    def usable(self) -> list[UpscalerInfo]:
        """Return those that can be run."""
        return [info for info in self.upscalers() if info.error is None]

    def names(self) -> list[str]:
        """Return the names of those that can be run."""
        return [info.name for info in self.usable()]

    def canonical(self, name: str) -> str | None:
        """Return the listed name of one that can be run, None where there is none."""
        info = self.find(name)
        return info.name if info is not None and info.error is None else None

    def find(self, name: str) -> UpscalerInfo | None:
        """Return the upscaler of a name, stem or file name in any case, usable or not, or None.

        Looks again for files added since.
        """
        wanted = name.strip().casefold()
        for again in (False, True):
            if again:
                self.refresh()
            for info in self.upscalers():
                if wanted in (
                    info.name.casefold(),
                    info.stem.casefold(),
                    info.path.name.casefold(),
                ):
                    return info
        return None

    def usable_one(self, name: str) -> UpscalerInfo:
        """Return an upscaler that can be run.

        Raises:
            MissingModel: its file is gone.
            UnsupportedCheckpoint, CorruptCheckpoint: the file cannot serve.
        """
        info = self.find(name)
        if info is None:
            raise MissingModel(f"there is no upscaler {name!r} any more; was its file removed?")
        if info.error is not None:
            # The header says what is wrong in the right class of error.
            upscaler_shape(read_header(info.path))
        return info

    def _inspect(self, path: Path) -> UpscalerInfo | None:
        try:
            stamp = Stamp.of(path)
        except OSError:
            # It went away between being listed and being looked at.
            return None
        known = self._seen.get(path)
        if known is not None and known.stamp == stamp:
            return known
        name = PUBLISHED.get(path.stem.casefold(), path.stem)
        plain = UpscalerInfo(path=path, name=name, stamp=stamp)
        try:
            shape = upscaler_shape(read_header(path))
        except ModelError as error:
            return replace(plain, error=error.message)
        return replace(plain, scale=shape.scale, reason=shape.reason)
