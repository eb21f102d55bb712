"""Which networks of faces there are, and which of them a name means.

Folders are scanned by headers alone. Names are A1111's, of the kinds: "CodeFormer" and "GFPGAN"; of
several files of a kind the last by name counts, GFPGANv1.4 before GFPGANv1.3. Safe to use from
several threads; no torch here.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from sdforge.core.errors import MissingModel, ModelError, UnknownName
from sdforge.core.paths import Paths
from sdforge.models.checkpoint import read_header
from sdforge.models.faces.shapes import CODEFORMER, FINDER, GFPGAN, RESTORERS, face_network
from sdforge.models.files import model_files
from sdforge.models.hashes import Stamp

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
# What the files that are published are called, for those who have none yet.
_PUBLISHED = {
    CODEFORMER: "codeformer-v0.1.0.pth",
    GFPGAN: "GFPGANv1.4.pth",
    FINDER: "detection_Resnet50_Final.pth",
}


@dataclass(frozen=True, kw_only=True)
class FaceFile:
    """One file. `side` is that of the faces it takes, `error` says why it cannot be used."""

    path: Path
    stamp: Stamp
    kind: str = ""
    side: int = 0
    error: str = ""

    @property
    def name(self) -> str:
        """Its file's name without suffix."""
        return self.path.stem


class FaceLibrary:
    """The files below the folders of faces, scanned when asked."""

    def __init__(self, paths: Paths) -> None:
        """Look nowhere yet."""
        self._paths = paths
        self._lock = threading.RLock()
        self._seen: dict[Path, FaceFile] = {}

    def files(self) -> list[FaceFile]:
        """Return all files, unusable ones too; those that did not change are not opened again."""
        with self._lock:
            found: dict[Path, FaceFile] = {}
            for root in self._paths.faces:
                for path in model_files(root, _SUFFIXES):
                    file = self._inspect(path)
                    if file is not None:
                        found.setdefault(path, file)
            self._seen = found
            return list(found.values())

    def restorers(self) -> dict[str, FaceFile]:
        """Return what can restore faces, by A1111's names; nothing where none can be found."""
        by_kind = self._by_kind()
        if FINDER not in by_kind:
            return {}
        return {kind: by_kind[kind] for kind in RESTORERS if kind in by_kind}

    def chosen(self, name: str, field: str) -> tuple[str, FaceFile]:
        """Return the listed name and the file of a restorer; "" is the first there is.

        Raises:
            UnknownName: it is no restorer's name.
            MissingModel: there is no file of it, or none that finds faces; says what goes where.
        """
        kinds = {kind.casefold(): kind for kind in RESTORERS}
        by_kind = self._by_kind()
        kind = kinds.get(name.strip().casefold())
        if kind is None and name.strip() not in ("", "None"):
            raise UnknownName("face restorer", name, RESTORERS, field)
        if kind is None:
            kind = next((one for one in RESTORERS if one in by_kind), CODEFORMER)
        missing = [one for one in (kind, FINDER) if one not in by_kind]
        if missing:
            raise MissingModel(self._advice(field, kind, missing))
        return kind, by_kind[kind]

    def finder(self) -> FaceFile:
        """Return what finds faces.

        Raises:
            MissingModel: there is none.
        """
        found = self._by_kind().get(FINDER)
        if found is None:
            raise MissingModel(self._advice("faces", FINDER, [FINDER]))
        return found

    def _by_kind(self) -> dict[str, FaceFile]:
        usable = [file for file in self.files() if not file.error]
        return {file.kind: file for file in sorted(usable, key=lambda file: file.name.casefold())}

    def _advice(self, field: str, kind: str, missing: list[str]) -> str:
        names = " and ".join(
            f"{_PUBLISHED[one]} (which finds them)" if one == FINDER else _PUBLISHED[one]
            for one in missing
        )
        folders = " or ".join(str(folder) for folder in self._paths.faces[:2])
        others = [one for one in RESTORERS if one != kind and one in self._by_kind()]
        other = f"choose {others[0]} (face_restoration_model), " if others else ""
        broken = [f"{file.path.name}: {file.error}" for file in self.files() if file.error]
        found = f" Files that cannot be used: {'; '.join(broken[:3])}." if broken else ""
        return (
            f"{field}: {kind} needs a file that is not there: put {names} into {folders}, {other}"
            f"or leave faces as they are.{found}"
        )

    def _inspect(self, path: Path) -> FaceFile | None:
        try:
            stamp = Stamp.of(path)
        except OSError:
            # It went away between being listed and being looked at.
            return None
        known = self._seen.get(path)
        if known is not None and known.stamp == stamp:
            return known
        try:
            found = face_network(read_header(path))
            return FaceFile(path=path, stamp=stamp, kind=found.kind, side=found.shape.side)
        except ModelError as error:
            return FaceFile(path=path, stamp=stamp, error=error.message)
