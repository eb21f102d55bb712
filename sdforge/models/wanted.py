"""What a checkpoint will be made of: which file each network comes from, and how to read it.

Everything here is told by headers and a few sampled bytes; nothing is loaded. `loader.py` and
`read_ahead.py` carry it out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.composition import files_of
from sdforge.models.content import Content
from sdforge.models.detect import detect
from sdforge.models.families import FAMILIES
from sdforge.models.families.base import Family, Match
from sdforge.models.hashes import Stamp
from sdforge.models.library import CheckpointInfo
from sdforge.models.opening import open_model
from sdforge.models.quant import Storage
from sdforge.models.weights import LoadPlan


@dataclass(frozen=True)
class Beside:
    """What was named beside a checkpoint: files, and the storage type of its denoiser."""

    vae: Path | None
    modules: tuple[Path, ...]
    storage: str


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is to be in memory: which file each role comes from, and in which types.

    `key` is what the store will know it by.
    """

    key: str
    info: CheckpointInfo
    vae_path: Path | None
    match: Match
    family: Family
    headers: Mapping[str, CheckpointHeader]
    stamps: Mapping[str, Stamp]
    storages: Mapping[str, Storage]


@dataclass(frozen=True, eq=False)
class PlannedPart:
    """One component to come: its key in the store, and how to read it where it is not there.

    `content` is what will be read; `alike` are held components with the same samples, which have
    not been compared byte by byte yet.
    """

    key: str
    plan: LoadPlan | None = None
    content: Content | None = None
    alike: tuple[str, ...] = ()


StorageOf = Callable[[str, str], Storage]


def resolve(info: CheckpointInfo, beside: Beside, storage_of: StorageOf) -> Wanted:
    """Open the headers of everything that a checkpoint needs.

    Args:
        info: the checkpoint.
        beside: what was named beside it.
        storage_of: returns how a role's weights are kept, by the role and the denoiser's choice.

    Raises:
        UnsupportedCheckpoint, CorruptCheckpoint, MissingModel: it cannot be loaded.
    """
    headers = {info.path: open_model(info.path)}
    match = detect(headers[info.path])
    if match.problem:
        raise UnsupportedCheckpoint(f"{info.path.name}: {match.problem}")
    family = FAMILIES.get(match.family)
    files = files_of(family, info.path, beside.vae, beside.modules)
    headers |= {path: open_model(path) for path in {*files.values()} - {info.path}}
    stamps = {role: stamp_of(path) for role, path in files.items()}
    storages = {role: storage_of(role, beside.storage) for role in files}
    return Wanted(
        key=holding_key(stamps, storages),
        info=info,
        vae_path=files["vae"] if files["vae"] != info.path else None,
        match=match,
        family=family,
        headers={role: headers[path] for role, path in files.items()},
        stamps=stamps,
        storages=storages,
    )


def key_of(info: CheckpointInfo, beside: Beside, storage_of: StorageOf) -> str | None:
    """Return the key of a checkpoint going by the files' stamps; None if it cannot be loaded.

    Opens no file that was opened before.

    Raises:
        MissingModel, UnsupportedCheckpoint: a file is gone, or one beside it does not fit.
    """
    if info.family is None or info.error is not None:
        return None
    files = files_of(FAMILIES.get(info.family), info.path, beside.vae, beside.modules)
    return holding_key(
        {role: stamp_of(path) for role, path in files.items()},
        {role: storage_of(role, beside.storage) for role in files},
    )


def holding_key(stamps: Mapping[str, Stamp], storages: Mapping[str, Storage]) -> str:
    """Return what equal files, in equal types, are known by."""
    rows = [(role, stamp, storages[role]) for role, stamp in sorted(stamps.items())]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def stamp_of(path: Path) -> Stamp:
    """Return what tells states of a file apart; raises `MissingModel`."""
    try:
        return Stamp.of(path)
    except OSError as error:
        raise _unreadable(path, error) from error


class PartFinder:
    """Finds parts of files that are held already, and plans how to read the others."""

    def __init__(self, is_held: Callable[[str], bool], alignment: int) -> None:
        """Know nothing yet.

        Args:
            is_held: says whether the store has a component of a key.
            alignment: of weights that are computed with where they lie, in bytes.
        """
        self._is_held = is_held
        self._alignment = alignment
        # What was found out about files: (stamp, family, role, storage) → key in the store, and
        # content by key for the components that are held.
        self._known: dict[tuple[Stamp, str, str, Storage], str] = {}
        self._contents: dict[str, Content] = {}

    def parts(self, wanted: Wanted) -> dict[str, PlannedPart]:
        """Return all parts of a checkpoint; equal ones are compared, and everything is checked."""
        self._forget_the_gone()
        return {role: self._settled(wanted, role) for role in wanted.headers}

    def parts_unread(self, wanted: Wanted) -> dict[str, PlannedPart]:
        """Return the same without reading whole files: what looks equal is left as `alike`."""
        self._forget_the_gone()
        return {role: self._planned(wanted, role) for role in wanted.headers}

    def content(self, key: str) -> Content | None:
        """Return what a held component was read from."""
        return self._contents.get(key) if self._is_held(key) else None

    def learn(self, wanted: Wanted, role: str, key: str, content: Content | None = None) -> None:
        """Remember that a part of these files is the component `key`, read from `content`."""
        known = (wanted.stamps[role], wanted.family.name, role, wanted.storages[role])
        self._known[known] = key
        if content is not None:
            self._contents[key] = content

    def _forget_the_gone(self) -> None:
        self._contents = {key: one for key, one in self._contents.items() if self._is_held(key)}

    def _settled(self, wanted: Wanted, role: str) -> PlannedPart:
        part = self._planned(wanted, role)
        if part.content is None:
            return part
        for key in part.alike:
            if part.content.is_same(self._contents[key]):
                self.learn(wanted, role, key)
                return PlannedPart(key)
        self.learn(wanted, role, part.key, part.content)
        return part

    def _planned(self, wanted: Wanted, role: str) -> PlannedPart:
        stamp, storage = wanted.stamps[role], wanted.storages[role]
        known = self._known.get((stamp, wanted.family.name, role, storage), "")
        if self._is_held(known):
            return PlannedPart(known)
        header = wanted.headers[role]
        recipe = wanted.family.recipe(role, header)
        try:
            content = Content.of(recipe, header, storage, stamp)
        except OSError as error:
            raise _unreadable(header.path, error) from error
        alike = [key for key, held in self._contents.items() if held.digest == content.digest]
        plan = LoadPlan(recipe, header, storage, self._alignment)
        return PlannedPart(content.key, plan, content, tuple(alike))


def _unreadable(path: Path, error: OSError) -> MissingModel:
    return MissingModel(f"{path} cannot be opened: {error.strerror or error}")
