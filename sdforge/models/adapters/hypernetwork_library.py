"""Which hypernetwork files there are, by the names that prompts call them. No torch here."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from sdforge.core.errors import closest_names
from sdforge.core.paths import Paths
from sdforge.models.files import model_files

_SUFFIXES = (".pt",)


@dataclass(frozen=True, kw_only=True)
class HypernetworkInfo:
    """One file, named without its suffix."""

    path: Path

    @property
    def name(self) -> str:
        """What prompts call it."""
        return self.path.stem


class HypernetworkLibrary:
    """The files below the hypernetwork folders of `Paths`; safe to use from several threads."""

    def __init__(self, paths: Paths) -> None:
        """Look nowhere yet."""
        self._paths = paths
        self._lock = threading.RLock()
        self._infos: list[HypernetworkInfo] | None = None

    def refresh(self) -> None:
        """Look through the folders again; of equal names the first counts."""
        found: dict[str, HypernetworkInfo] = {}
        for root in self._paths.hypernetworks:
            for path in model_files(root, _SUFFIXES):
                info = HypernetworkInfo(path=path)
                found.setdefault(info.name.casefold(), info)
        with self._lock:
            self._infos = [found[name] for name in sorted(found)]

    def hypernetworks(self) -> list[HypernetworkInfo]:
        """Return all files in order of their names."""
        if self._infos is None:
            self.refresh()
        with self._lock:
            return list(self._infos or ())

    def find(self, name: str) -> HypernetworkInfo | None:
        """Return the file of a name in any case, None where there is none; looks again for it."""
        wanted = name.strip().casefold()
        for again in (False, True):
            if again:
                self.refresh()
            for info in self.hypernetworks():
                if info.name.casefold() == wanted:
                    return info
        return None

    def closest(self, name: str) -> list[str]:
        """Return the names that resemble one that there is not."""
        return closest_names(name, [info.name for info in self.hypernetworks()])
