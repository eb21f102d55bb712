"""Merging checkpoints as a job: names become files, weights a new file in the checkpoint folder.

`merge_target` and `prepared` are asked when a job comes in as well, so that what cannot be merged
is refused at once. No torch here: `MergeRun` loads it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdforge.core.errors import Cancelled, ModelError, UnknownName
from sdforge.core.events import Event, Notice, StageStarted, StepDone
from sdforge.core.merge import NO_CONFIG, SUFFIX, Merge, file_name, usual_name
from sdforge.core.result import ImageResult
from sdforge.core.settings import write_atomically
from sdforge.models.hashes import legacy_hash
from sdforge.models.merging.metadata import Origin, merged_metadata
from sdforge.models.merging.plan import MergePlan, plan_merge
from sdforge.models.merging.target import check_space, check_target, inputs_of
from sdforge.models.opening import open_model
from sdforge.pipeline.context import RunControl

if TYPE_CHECKING:
    from sdforge.models.library import CheckpointInfo, Library

log = logging.getLogger(__name__)

_FIELDS = ("primary_model_name", "secondary_model_name", "tertiary_model_name")
_MOST_CONFIG_BYTES = 1024 * 1024
_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A merge whose files are found: what is written, where, and what of."""

    plan: MergePlan
    infos: tuple[CheckpointInfo, ...]
    target: Path


def resolved_merge(merge: Merge, library: Library) -> Merge:
    """Return a merge with nothing left open: titles of checkpoints, and the new file's name.

    Raises:
        InvalidRequest: a value cannot be used, or the file's name is taken.
        UnknownName: no such checkpoint or VAE.
        ModelError: the checkpoints cannot be merged.
        StorageError: the disk has no room.
    """
    merge.check()
    infos = _found(merge, library)
    titles = [info.title for info in infos] + ["", ""]
    taken = {path.name.casefold() for path in _folder(library).glob(f"*{SUFFIX}")}
    if merge.name.strip():
        name = file_name(merge.name)
    else:
        stems = tuple(info.name for info in infos)
        name = _free(file_name(usual_name(merge.method, merge.multiplier, stems)), taken)
    resolved = replace(merge, primary=titles[0], secondary=titles[1], tertiary=titles[2], name=name)
    prepared(resolved, library)
    return resolved


def prepared(merge: Merge, library: Library) -> Prepared:
    """Find the files of a resolved merge and decide what is written; raises as `resolved_merge`."""
    infos = _found(merge, library)
    vae = None
    if merge.bakes_vae:
        try:
            found = library.find_vae(merge.vae, infos[0])
        except UnknownName as error:
            raise UnknownName(error.kind, error.name, error.known, "bake_in_vae") from error
        vae = open_model(found) if found is not None else None
    headers = [open_model(info.path) for info in infos]
    plan = plan_merge(merge, headers, vae)
    target = _folder(library) / merge.name
    check_target(target, inputs_of(plan), "custom_name", overwrite=merge.overwrite)
    check_space(target.parent, plan)
    return Prepared(plan=plan, infos=tuple(infos), target=target)


def _folder(library: Library) -> Path:
    return library.checkpoint_folder


def _found(merge: Merge, library: Library) -> list[CheckpointInfo]:
    infos = []
    for field, name in zip(_FIELDS, merge.names, strict=False):
        try:
            infos.append(library.find(name))
        except UnknownName as error:
            raise UnknownName(error.kind, error.name, error.known, field) from error
    return infos


def _free(name: str, taken: set[str]) -> str:
    stem, number, free = name.removesuffix(SUFFIX), 1, name
    while free.casefold() in taken:
        number += 1
        free = f"{stem}-{number}{SUFFIX}"
    return free


@dataclass(kw_only=True)
class MergeRun:
    """One merge on the model thread.

    Attributes:
        merge: resolved.
        library: the model files.
        emit: takes events.
        control: how others stop the run.
    """

    merge: Merge
    library: Library
    emit: Callable[[Event], None]
    control: RunControl

    def pictures(self) -> Iterator[ImageResult]:
        """Write the checkpoint; yields nothing, since nothing is drawn.

        Raises:
            Cancelled: the user stopped the job.
            InvalidRequest, ModelError, StorageError: as `resolved_merge`, if things changed.
        """
        from sdforge.models.merging.write import write_merged

        self.emit(StageStarted(stage="merge"))
        ready = prepared(self.merge, self.library)
        self._check_cancelled()
        origins = [self._origin(info) for info in ready.infos]
        metadata = merged_metadata(ready.plan, origins)
        for text in ready.plan.notices:
            self.emit(Notice(text=text))
        sha256 = write_merged(ready.plan, metadata, ready.target, self._progress(ready.plan))
        self._copy_config(ready)
        self.library.learn_hash(ready.target, sha256)
        self.library.refresh()
        size = ready.target.stat().st_size
        self.emit(Notice(text=f"Checkpoint saved: {ready.target.name} ({size / 2**20:.0f} MiB)"))
        log.info("merged %s", ready.target)
        yield from ()

    def _origin(self, info: CheckpointInfo) -> Origin:
        if self.merge.save_metadata and self.merge.add_recipe:
            try:
                info = self.library.ensure_hash(info)
            except ModelError as error:
                log.warning("no hash: %s", error)
            self._check_cancelled()
        old = None if info.path.is_dir() else legacy_hash(info.path)
        return Origin(name=info.relative, sha256=info.sha256, legacy_hash=old)

    def _progress(self, plan: MergePlan) -> Callable[[int], None]:
        done = steps = 0

        def on_progress(count: int) -> None:
            nonlocal done, steps
            self._check_cancelled()
            done += count
            reached = min(_STEPS, _STEPS * done // max(plan.data_bytes, 1))
            if reached > steps:
                steps = reached
                self.emit(StepDone(step=steps, steps=_STEPS, batch=0, batch_count=1, stage="merge"))

        return on_progress

    def _copy_config(self, ready: Prepared) -> None:
        """Put A1111's .yaml of one of the checkpoints beside the new file."""
        wanted = self.merge.config_from
        if wanted == NO_CONFIG:
            return
        infos = ready.infos if not wanted else ready.infos[wanted : wanted + 1]
        for info in infos:
            config = info.path.with_suffix(".yaml")
            if config.is_file() and config.stat().st_size <= _MOST_CONFIG_BYTES:
                write_atomically(ready.target.with_suffix(".yaml"), config.read_bytes())
                return

    def _check_cancelled(self) -> None:
        if self.control.cancelled:
            raise Cancelled("the merge was interrupted")
