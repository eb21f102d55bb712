"""Which LoRA files there are, and what prompts may call them.

Folders are scanned by headers alone. Names follow A1111: the file's name without suffix, or the
alias that its trainer wrote into it, unless several files share that. Safe to use from several
threads; no torch here.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sdforge.core.errors import MissingModel, ModelError, closest_names
from sdforge.core.paths import Paths
from sdforge.models.adapters.lora_family import LoraFamily, detect_family
from sdforge.models.checkpoint import read_header
from sdforge.models.files import model_files
from sdforge.models.hashes import HashCache, Stamp

SUFFIXES = (".safetensors", ".pt", ".ckpt", ".pth")
_HASH_DIGITS = 12
_PIECE_BYTES = 4 * 1024 * 1024
# The cover pictures that some tools store are no use in a list and may take megabytes.
_LEFT_OUT = ("ssmd_cover_images",)


@dataclass(frozen=True, kw_only=True)
class LoraInfo:
    """One file. `error` says why it cannot be used; `alias` is the trainer's name for it."""

    path: Path
    name: str
    alias: str
    relative: str
    stamp: Stamp
    metadata: Mapping[str, str] = field(default_factory=dict)
    family: LoraFamily | None = None
    error: str | None = None

    def readable_metadata(self) -> dict[str, Any]:
        """Return the metadata as A1111 lists it: JSON texts as what they say."""
        return {key: _parsed(value) for key, value in self.metadata.items() if key not in _LEFT_OUT}


class LoraLibrary:
    """The files below the LoRA folders of `Paths`, scanned when first asked for."""

    def __init__(self, paths: Paths) -> None:
        """Look nowhere yet."""
        self._paths = paths
        self._lock = threading.RLock()
        self._seen: dict[Path, LoraInfo] = {}
        self._infos: list[LoraInfo] | None = None
        self._names: dict[str, LoraInfo] = {}
        self._also: tuple[Path, ...] = ()
        self._hashes = HashCache(paths.cache / "lora-hashes.json", digest=tensor_sha256)

    def also(self, *folders: Path) -> None:
        """Search these folders as well from now on, in place of those named before."""
        with self._lock:
            if folders != self._also:
                self._also, self._infos = folders, None

    def refresh(self) -> None:
        """Scan the folders again; files that did not change are not opened."""
        with self._lock:
            found: dict[Path, LoraInfo] = {}
            for root in (*self._paths.loras, *self._also):
                for path in model_files(root, SUFFIXES):
                    if path not in found:
                        found[path] = self._inspect(path, path.relative_to(root).as_posix())
            self._seen = found
            self._infos = sorted(found.values(), key=lambda info: info.relative.casefold())
            self._names = _names(self._infos)

    def loras(self) -> list[LoraInfo]:
        """Return all files, broken ones too, in order of their paths."""
        with self._lock:
            if self._infos is None:
                self.refresh()
            return list(self._infos or ())

    def find(self, name: str) -> LoraInfo | None:
        """Return the file of a name, None where there is none; looks again for files added since.

        A name is the file's, with or without folder, or an alias that one file alone has, with or
        without regard to case.
        """
        self.loras()
        wanted = _folded(name)
        with self._lock:
            if wanted not in self._names:
                self.refresh()
            return self._names.get(wanted)

    def closest(self, name: str) -> list[str]:
        """Return the names that resemble one that there is not."""
        return closest_names(name, [info.name for info in self.loras()])

    def short_hash(self, info: LoraInfo) -> str:
        """Return the 12 digits that pictures name a LoRA by; reads the file when first asked.

        Trainers write them into the file (`sshs_model_hash`); else they are of the SHA-256 of what
        follows the header (kohya's rule, Civitai's AutoV3).

        Raises:
            MissingModel: the file cannot be read.
        """
        said = info.metadata.get("sshs_model_hash", "")
        return (said or self._hashes.compute(info.path))[:_HASH_DIGITS]

    def _inspect(self, path: Path, relative: str) -> LoraInfo:
        try:
            stamp = Stamp.of(path)
        except OSError as error:
            stamp = Stamp(str(path), 0, 0)
            plain = _plain(path, relative, stamp)
            return replace(plain, error=f"{path} cannot be read: {error.strerror or error}")
        known = self._seen.get(path)
        if known is not None and known.stamp == stamp and known.relative == relative:
            return known
        return _read_info(_plain(path, relative, stamp))


def tensor_sha256(path: Path) -> str:
    """Return the SHA-256 of a safetensors file without its header, of others as a whole.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if path.suffix.lower() == ".safetensors":
            file.seek(8 + int.from_bytes(file.read(8), "little"))
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _plain(path: Path, relative: str, stamp: Stamp) -> LoraInfo:
    return LoraInfo(path=path, name=path.stem, alias=path.stem, relative=relative, stamp=stamp)


def _read_info(plain: LoraInfo) -> LoraInfo:
    try:
        header = read_header(plain.path)
    except (ModelError, MissingModel) as error:
        return replace(plain, error=error.message)
    return replace(
        plain,
        alias=header.metadata.get("ss_output_name") or plain.name,
        metadata=header.metadata,
        family=detect_family(header),
    )


def _names(infos: list[LoraInfo]) -> dict[str, LoraInfo]:
    """Return every name that means one file, folded; of equal file names the first counts."""
    names: dict[str, LoraInfo] = {}
    aliases = Counter(_folded(info.alias) for info in infos)
    for info in infos:
        names.setdefault(_folded(info.name), info)
    for info in infos:
        stem = info.relative.removesuffix(info.path.suffix)
        for name in (info.relative, stem, info.path.name):
            names.setdefault(_folded(name), info)
        if aliases[_folded(info.alias)] == 1:
            names.setdefault(_folded(info.alias), info)
    return names


def _folded(name: str) -> str:
    return name.strip().replace("\\", "/").casefold()


def _parsed(value: str) -> Any:
    if not value.startswith("{"):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
