"""Which detectors there are, and which of them a name means.

Folders are scanned by headers alone. Names are those of the files, as users of ADetailer know them
("face_yolov8n.pt"), and "RetinaFace" for the file that restoring faces finds them by. Safe to use
from several threads; no torch here.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from sdforge.core.errors import MissingModel, ModelError
from sdforge.core.paths import Paths
from sdforge.models.checkpoint import CheckpointHeader, read_header
from sdforge.models.detectors.shapes import detector_network
from sdforge.models.faces.library import FaceLibrary
from sdforge.models.faces.shapes import FINDER
from sdforge.models.files import model_files
from sdforge.models.hashes import Stamp

_SUFFIXES = (".pt", ".pth", ".safetensors")
# What people have most often, for those who have none yet.
_PUBLISHED = "face_yolov8n.pt, hand_yolov8n.pt or person_yolov8n-seg.pt"


@dataclass(frozen=True, kw_only=True)
class DetectorFile:
    """One file. `error` says why it cannot be used; `is_faces` that it is RetinaFace's."""

    name: str
    path: Path
    stamp: Stamp
    is_faces: bool = False
    error: str = ""


class DetectorLibrary:
    """The files below the folders of detectors, scanned when asked."""

    def __init__(self, paths: Paths, faces: FaceLibrary) -> None:
        """Look nowhere yet."""
        self._paths = paths
        self._faces = faces
        self._lock = threading.RLock()
        self._seen: dict[Path, DetectorFile] = {}

    def files(self) -> list[DetectorFile]:
        """Return all files, unusable ones too; those that did not change are not opened again."""
        with self._lock:
            found: dict[Path, DetectorFile] = {}
            for root in self._paths.detectors:
                for path in model_files(root, _SUFFIXES):
                    file = self._inspect(path)
                    if file is not None:
                        found.setdefault(path, file)
            self._seen = found
        return [*found.values(), *self._finders()]

    def names(self) -> list[str]:
        """Return the names of all that can be used."""
        return list(dict.fromkeys(file.name for file in self.files() if not file.error))

    def chosen(self, name: str, field: str) -> DetectorFile:
        """Return the detector of a name, with its suffix or without.

        Raises:
            ModelError: there is none of that name, or it cannot be used; says what goes where.
        """
        asked = name.strip().casefold()
        files = self.files()
        for file in files:
            if asked in (file.name.casefold(), Path(file.name).stem.casefold()):
                if file.error:
                    raise ModelError(f"{field}: {file.error}")
                return file
        folders = " or ".join(str(folder) for folder in self._paths.detectors[:2])
        there = ", ".join(file.name for file in files if not file.error) or "none"
        raise MissingModel(
            f"{field}: no detector named {name[:80]!r}; put its file into {folders} (YOLOv8 and "
            f"YOLO11 are read, such as {_PUBLISHED}). There: {there}."
        )

    def _finders(self) -> list[DetectorFile]:
        try:
            file = self._faces.finder()
        except ModelError:
            return []
        return [DetectorFile(name=FINDER, path=file.path, stamp=file.stamp, is_faces=True)]

    def _inspect(self, path: Path) -> DetectorFile | None:
        try:
            stamp = Stamp.of(path)
        except OSError:
            # It went away between being listed and being looked at.
            return None
        known = self._seen.get(path)
        if known is not None and known.stamp == stamp:
            return known
        try:
            detector_network(detector_header(path))
            return DetectorFile(name=path.name, path=path, stamp=stamp)
        except ModelError as error:
            return DetectorFile(name=path.name, path=path, stamp=stamp, error=error.message)


def detector_header(path: Path) -> CheckpointHeader:
    """Return the header of a detector's file, which may hold the network as an object."""
    return read_header(path, whole=True)
