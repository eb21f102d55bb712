"""Which ControlNet files there are, and what clients may call them.

Folders are scanned by headers alone; a file that cannot serve is listed with the reason. Names are
those of A1111's extension, `stem [old hash]`. Safe to use from several threads; no torch here.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from sdforge.core.errors import MissingModel, ModelError, UnknownName
from sdforge.core.paths import Paths
from sdforge.models.adapters.controlnet_shapes import match_controlnet
from sdforge.models.checkpoint import CheckpointHeader, read_header
from sdforge.models.files import model_files
from sdforge.models.hashes import Stamp, legacy_hash

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_HASH = re.compile(r"\s*\[[0-9a-fA-F]*\]$")
_WORDS = re.compile(r"[^a-z0-9]+")
_FIRST_OF_VISION = "vision_model.embeddings.class_embedding"
_IS_VISION = "is a CLIP encoder, which IP-Adapters see with; choose an IP-Adapter"


@dataclass(frozen=True, kw_only=True)
class ControlNetInfo:
    """One file. `family` is what it was made for, `error` says why it cannot be used.

    `layout` is that of `controlnet_shapes`. `vision` is set for CLIP's encoders, which are no
    ControlNets but what IP-Adapters see with: the width of a picture's vector, and of a place's.
    """

    path: Path
    relative: str
    stamp: Stamp
    family: str | None = None
    layout: str = ""
    reason: str = ""
    error: str | None = None
    preprocessor: str = ""
    vision: tuple[int, int] | None = None

    @property
    def stem(self) -> str:
        """The file's name without suffix."""
        return self.path.stem

    @cached_property
    def name(self) -> str:
        """The name that lists show: 'stem [0123abcd]'; reads 64 KiB of the file once."""
        return f"{self.stem} [{legacy_hash(self.path)}]"


class ControlNetLibrary:
    """The files below the ControlNet folders of `Paths`, scanned when first asked for."""

    def __init__(self, paths: Paths) -> None:
        """Look nowhere yet."""
        self._paths = paths
        self._lock = threading.RLock()
        self._seen: dict[Path, ControlNetInfo] = {}
        self._infos: list[ControlNetInfo] | None = None
        self._also: tuple[Path, ...] = ()

    def also(self, *folders: Path) -> None:
        """Search these folders as well from now on, in place of those named before."""
        with self._lock:
            if folders != self._also:
                self._also, self._infos = folders, None

    def refresh(self) -> None:
        """Scan the folders again; files that did not change are not opened."""
        with self._lock:
            found: dict[Path, ControlNetInfo] = {}
            visions = self._paths.clip_visions
            for root in (*self._paths.controlnets, *self._also, *visions):
                for path in model_files(root, _SUFFIXES):
                    info = self._inspect(path, path.relative_to(root).as_posix())
                    # Beside encoders, Forge keeps its preprocessors' networks there.
                    if info is not None and (root not in visions or info.vision):
                        found.setdefault(path, info)
            self._seen = found
            self._infos = sorted(found.values(), key=lambda info: info.relative.casefold())

    def controlnets(self) -> list[ControlNetInfo]:
        """Return all files, unusable ones too, in order of their paths."""
        with self._lock:
            if self._infos is None:
                self.refresh()
            return list(self._infos or ())

    def usable(self) -> list[ControlNetInfo]:
        """Return those that can be run."""
        return [info for info in self.controlnets() if info.error is None]

    def encoder(self, width: int, *, of_places: bool) -> ControlNetInfo:
        """Return a CLIP encoder whose vectors have a width; looks again for files added since.

        Args:
            width: that an IP-Adapter takes.
            of_places: it takes those of a picture's places, not the one of the whole.

        Raises:
            MissingModel: there is none.
        """
        for again in (False, True):
            if again:
                self.refresh()
            for info in self.controlnets():
                if info.vision and info.vision[of_places] == width and info.path.is_file():
                    return info
        kinds = {1024: "CLIP-ViT-H-14", 1280: "CLIP-ViT-H-14" if of_places else "CLIP-ViT-bigG-14",
                 1664: "CLIP-ViT-bigG-14", 768: "CLIP-ViT-L-14"}  # fmt: skip
        named = f" ({kinds[width]})" if width in kinds else ""
        raise MissingModel(
            f"it sees with a CLIP encoder of {width} numbers{named}, and there is none: put its "
            f"file into {self._paths.clip_visions[0]}"
        )

    def find(self, name: str) -> ControlNetInfo:
        """Return the ControlNet of a name; looks again for files added since.

        In this order: the listed name, stem or path, as written or in another case; a hash alone;
        the one file whose name holds the words asked for.

        Raises:
            UnknownName: none, or several, of that name.
        """
        for again in (False, True):
            if again:
                self.refresh()
            found = _match(self.controlnets(), name)
            if found is not None:
                return found
        names = [info.name for info in self.usable()]
        raise UnknownName("ControlNet", name, names, "controlnet.model")

    def _inspect(self, path: Path, relative: str) -> ControlNetInfo | None:
        try:
            stamp = Stamp.of(path)
        except OSError:
            # It went away between being listed and being looked at.
            return None
        known = self._seen.get(path)
        if known is not None and known.stamp == stamp and known.relative == relative:
            return known
        plain = ControlNetInfo(path=path, relative=relative, stamp=stamp)
        try:
            header = read_header(path)
            if _FIRST_OF_VISION in header.tensors:
                return replace(plain, vision=_widths(header), error=f"{path.name} {_IS_VISION}")
            match = match_controlnet(header)
        except ModelError as error:
            return replace(plain, error=error.message)
        said = header.metadata.get("sdforge.preprocessor", "").strip()
        return replace(
            plain,
            family=match.family,
            layout=match.layout,
            reason=match.reason,
            preprocessor=said,
        )


def _widths(header: CheckpointHeader) -> tuple[int, int]:
    projection = header.tensors.get("visual_projection.weight")
    return (projection.shape[0] if projection else 0), header.tensors[_FIRST_OF_VISION].shape[0]


def _match(infos: Sequence[ControlNetInfo], name: str) -> ControlNetInfo | None:
    wanted = name.strip().replace("\\", "/").casefold()
    if not wanted:
        return None
    bare = _HASH.sub("", wanted)
    tests: tuple[Callable[[ControlNetInfo], bool], ...] = (
        lambda info: wanted == info.name.casefold(),
        lambda info: bare in _plain_names(info),
        lambda info: wanted.strip("[]") == (legacy_hash(info.path) or ""),
    )
    for test in tests:
        found = [info for info in infos if test(info)]
        if found:
            return found[0]
    words = _WORDS.sub("", bare)
    partly = [info for info in infos if words and words in _WORDS.sub("", info.stem.casefold())]
    return partly[0] if len(partly) == 1 else None


def _plain_names(info: ControlNetInfo) -> tuple[str, ...]:
    relative = info.relative.casefold()
    return (
        info.stem.casefold(), info.path.name.casefold(), relative,
        relative.removesuffix(info.path.suffix.casefold()), str(info.path).casefold(),
    )  # fmt: skip
