"""Checkpoints on demand: build what a request names from what the store holds and what files hold.

Everything about a new checkpoint that headers can tell is checked while the old ones still work;
then the store makes room, and only then weights are read. Parts that are equal to parts held
already, in whatever file, are taken from there. Model thread only; `report` is for any.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sdforge.core.errors import MissingModel, SdforgeError, UnsupportedCheckpoint
from sdforge.core.settings import Settings
from sdforge.memory.arena import ALIGNMENT
from sdforge.memory.component import Component
from sdforge.memory.holdings import Holding, Limits, StoreReport
from sdforge.memory.manager import MemoryManager
from sdforge.memory.store import HostStore
from sdforge.models.bundle import LazyIdentity, ModelBundle
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.composition import files_of
from sdforge.models.compute_types import Precision, choose_precision
from sdforge.models.content import Content
from sdforge.models.detect import detect
from sdforge.models.families import FAMILIES
from sdforge.models.families.base import Family, Match
from sdforge.models.hashes import Stamp
from sdforge.models.library import CheckpointInfo, Library
from sdforge.models.opening import open_model
from sdforge.models.prefetch import Prefetch
from sdforge.models.quant import AUTOMATIC, Storage, choose_storage
from sdforge.models.weights import LoadPlan, load_component

__all__ = ["ModelProvider", "Precision", "choose_precision"]

log = logging.getLogger(__name__)

_MIB = 1024 * 1024


@dataclass(frozen=True)
class _Beside:
    """Files that were named beside a checkpoint."""

    vae: Path | None
    modules: tuple[Path, ...]


@dataclass(frozen=True)
class _Wanted:
    """What is to be in memory: which file each role comes from, and in which types."""

    info: CheckpointInfo
    vae_path: Path | None
    match: Match
    family: Family
    headers: Mapping[str, CheckpointHeader]
    stamps: Mapping[str, Stamp]


@dataclass(frozen=True)
class _Part:
    """One component to come: its key in the store, and how to read it where it is not there."""

    key: str
    plan: LoadPlan | None = None


def _no_progress(fraction: float) -> None:
    return None


class ModelProvider:
    """Gives out checkpoints, loading what the store lacks."""

    def __init__(
        self,
        library: Library,
        memory: MemoryManager,
        *,
        precision: Precision,
        store: HostStore | None = None,
    ) -> None:
        """Load nothing yet; without `store` an own one is made."""
        self.store = store or HostStore(memory.release)
        self._library = library
        self._memory = memory
        self._precision = precision
        self._storage_choice = AUTOMATIC
        self._current: Holding | None = None
        # What was found out about files: (stamp, family, role, storage) → key in the store, and
        # content by key for the components that are held.
        self._known: dict[tuple[Stamp, str, str, Storage], str] = {}
        self._contents: dict[str, Content] = {}
        self._prefetch: Prefetch | None = None

    @property
    def current(self) -> ModelBundle | None:
        """The bundle given out last, if it is still in memory."""
        value = self._current.value if self._current is not None else None
        return value if isinstance(value, ModelBundle) else None

    def configure(self, settings: Settings) -> None:
        """Take the limits of the store and the storage type of denoisers; for the next `get`."""
        self._storage_choice = settings.forge_unet_storage_dtype
        self.store.configure(
            Limits(
                holdings=settings.sd_checkpoints_limit,
                host_bytes=settings.models_memory_limit * _MIB,
                idle_seconds=settings.models_idle_minutes * 60,
            )
        )

    def get(
        self,
        title: str,
        *,
        vae: str = "Automatic",
        modules: Sequence[str] = (),
        on_progress: Callable[[float], None] = _no_progress,
    ) -> ModelBundle:
        """Return a checkpoint's bundle, loading what is not in memory yet.

        Other bundles stay usable as long as the store has room for them. When the new checkpoint
        turns out to be unusable by its header, all stay.

        Args:
            title: any name that `Library.find` knows; "" for the first.
            vae: 'Automatic' or 'None' for the checkpoint's own, else the name of a VAE file.
            modules: names of files that bring a VAE or text encoders, before all others.
            on_progress: called with the fraction read, 0 to 1, while weights are loaded; what it
                raises ends the load.

        Raises:
            UnknownName: no checkpoint or VAE of that name.
            MissingModel: no checkpoint at all, or a part of it is missing.
            UnsupportedCheckpoint: a kind that cannot be run.
            CorruptCheckpoint: damaged.
            OutOfMemory: the host's memory cannot hold it.
            NotAvailable: the storage type of the settings needs what is not installed.
        """
        info = self._library.find(title)
        beside = _Beside(self._library.find_vae(vae, info), self._library.find_modules(modules))
        holding = self._held(info, beside)
        if holding is None:
            wanted = self._resolve(info, beside)
            holding = self._load(wanted, self._parts(wanted), on_progress)
        self._current = holding
        if not isinstance(holding.value, ModelBundle):
            raise SdforgeError(f"{info.relative} was released while it was being taken")
        return holding.value

    @contextmanager
    def lease(self, bundle: ModelBundle) -> Iterator[ModelBundle]:
        """Keep a bundle in memory while the block runs, whatever else is loaded inside."""
        holding = self.store.holding(bundle.key)
        if holding is None:
            raise SdforgeError(f"{bundle.info.relative} was released and cannot be leased")
        with self.store.lease(holding):
            yield bundle

    def unload(self) -> int:
        """Give back all memory; the next `get` loads again. Return the bytes freed."""
        self._current = None
        return self.store.evict_all()

    def unload_one(self, title: str) -> int:
        """Give back one checkpoint's memory, whichever VAE it was loaded with; return the bytes.

        Raises:
            UnknownName: no checkpoint of that name.
        """
        info = self._library.find(title)
        return sum(
            self.store.evict(holding)
            for holding in self.store.holdings()
            if isinstance(holding.value, ModelBundle) and holding.value.info.path == info.path
        )

    def tend(self) -> bool:
        """Give memory back that the machine needs, or all after the idle time; True if any."""
        return self.store.tend()

    def expect(
        self, titles: Sequence[str], *, vae: str = "Automatic", modules: Sequence[str] = ()
    ) -> None:
        """Say which checkpoints come next: those in memory stay, the first other is read ahead.

        Raises:
            UnknownName: no checkpoint or VAE of such a name.
        """
        protected, ahead = [], None
        for title in titles:
            info = self._library.find(title)
            beside = _Beside(self._library.find_vae(vae, info), self._library.find_modules(modules))
            holding = self._held(info, beside, touch=False)
            if holding is not None:
                protected.append(holding.key)
            elif ahead is None:
                ahead = info
        self.store.protect(protected)
        if ahead is not None:
            self._read_ahead(ahead.path)

    def prefetch(self, title: str) -> Prefetch:
        """Begin to read a checkpoint's file ahead; the one that was being read is given up.

        Raises:
            UnknownName: no checkpoint of that name.
        """
        return self._read_ahead(self._library.find(title).path)

    def report(self) -> StoreReport:
        """Return who holds main memory; for any thread."""
        return self.store.report()

    # --- what is held --------------------------------------------------------------------------

    def _held(self, info: CheckpointInfo, beside: _Beside, *, touch: bool = True) -> Holding | None:
        """Return a checkpoint that is in memory, going by the files' stamps; opens no known one."""
        if info.family is None or info.error is not None:
            return None
        files = files_of(FAMILIES.get(info.family), info.path, beside.vae, beside.modules)
        key = self._holding_key({role: _stamp(path) for role, path in files.items()})
        return self.store.holding(key, touch=touch)

    def _holding_key(self, stamps: Mapping[str, Stamp]) -> str:
        rows = [(role, stamp, self._storage(role)) for role, stamp in sorted(stamps.items())]
        return hashlib.sha256(repr(rows).encode()).hexdigest()

    def _storage(self, role: str) -> Storage:
        choice = self._storage_choice if role == "denoiser" else AUTOMATIC
        return choose_storage(self._precision.of(role), choice)

    # --- what headers tell ---------------------------------------------------------------------

    def _resolve(self, info: CheckpointInfo, beside: _Beside) -> _Wanted:
        headers = {info.path: open_model(info.path)}
        match = detect(headers[info.path])
        if match.problem:
            raise UnsupportedCheckpoint(f"{info.path.name}: {match.problem}")
        family = FAMILIES.get(match.family)
        files = files_of(family, info.path, beside.vae, beside.modules)
        headers |= {path: open_model(path) for path in {*files.values()} - {info.path}}
        vae_path = files["vae"] if files["vae"] != info.path else None
        return _Wanted(
            info=info,
            vae_path=vae_path,
            match=match,
            family=family,
            headers={role: headers[path] for role, path in files.items()},
            stamps={role: _stamp(path) for role, path in files.items()},
        )

    def _parts(self, wanted: _Wanted) -> dict[str, _Part]:
        """Find each part in the store, or plan how to read it; everything is checked here."""
        self._contents = {
            key: content for key, content in self._contents.items() if self.store.component(key)
        }
        return {role: self._part(wanted, role) for role in wanted.headers}

    def _part(self, wanted: _Wanted, role: str) -> _Part:
        stamp, storage = wanted.stamps[role], self._storage(role)
        family = wanted.family.name
        known = self._known.get((stamp, family, role, storage), "")
        if self.store.component(known) is not None:
            return _Part(known)
        header = wanted.headers[role]
        recipe = wanted.family.recipe(role, header)
        try:
            content = Content.of(recipe, header, storage, stamp)
        except OSError as error:
            raise _unreadable(header.path, error) from error
        equal = [key for key, held in self._contents.items() if content.is_same(held)]
        key = equal[0] if equal else content.key
        self._known[stamp, family, role, storage] = key
        if equal:
            return _Part(key)
        self._contents[key] = content
        # Where weights are computed with as they lie, they must lie as an allocator would put them.
        alignment = ALIGNMENT if self._memory.device.is_host else 1
        return _Part(key, LoadPlan(recipe, header, storage, alignment))

    # --- loading -------------------------------------------------------------------------------

    def _load(
        self,
        wanted: _Wanted,
        parts: Mapping[str, _Part],
        on_progress: Callable[[float], None],
    ) -> Holding:
        started = time.perf_counter()
        plans = {role: part.plan for role, part in parts.items() if part.plan is not None}
        needed = sum(plan.host_bytes for plan in plans.values())
        reused = [part.key for part in parts.values() if part.plan is None]
        with self.store.loading(needed, reused=reused):
            # Beside the reading: its pages are hashed while they are warm, and the sum is there by
            # the time of the first picture.
            identity = self._library.start_identity(wanted.info, wanted.vae_path)
            components = self._read(wanted, parts, on_progress)
            made = wanted.family.assemble(wanted.match, components, self._memory)
            key = self._holding_key(wanted.stamps)
            bundle = ModelBundle(
                key=key,
                info=wanted.info,
                family=wanted.match.family,
                components=components,
                latent_format=made.latent_format,
                text=made.text,
                vae=made.vae,
                denoiser=made.denoiser,
                identify=LazyIdentity(identity, wanted.info, wanted.vae_path),
            )
            keys = [part.key for part in parts.values()]
            holding = self.store.hold(key, wanted.info.relative, keys, bundle)
        log.info(
            "loaded %s (%s) in %.2f s: %s",
            wanted.info.relative,
            ", ".join(plans) or "all parts were there",
            time.perf_counter() - started,
            wanted.match.reason,
        )
        return holding

    def _read(
        self,
        wanted: _Wanted,
        parts: Mapping[str, _Part],
        on_progress: Callable[[float], None],
    ) -> dict[str, Component]:
        progress = _Progress([part.plan for part in parts.values() if part.plan], on_progress)
        components = {}
        for role, part in parts.items():
            held = self.store.component(part.key)
            components[role] = held or self._read_part(wanted, role, part, progress)
        progress.finish()
        return components

    def _read_part(self, wanted: _Wanted, role: str, part: _Part, progress: _Progress) -> Component:
        plan, name = part.plan, wanted.headers[role].path.stem
        if plan is None:
            raise SdforgeError(f"the {role} of {name} left memory while it was being reused")

        def make() -> Component:
            return load_component(plan, name=name, fingerprint=part.key, on_progress=progress.add)

        return self.store.load(part.key, role, name, make)

    def _read_ahead(self, path: Path) -> Prefetch:
        last = self._prefetch
        if last is not None and last.path == path and not last.wait(0):
            return last
        if last is not None:
            last.cancel()
        self._prefetch = Prefetch(path)
        return self._prefetch


def _stamp(path: Path) -> Stamp:
    try:
        return Stamp.of(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> MissingModel:
    return MissingModel(f"{path} cannot be opened: {error.strerror or error}")


class _Progress:
    """Turns bytes read into fractions, one report per percent."""

    def __init__(self, plans: Sequence[LoadPlan], on_progress: Callable[[float], None]) -> None:
        self._total = sum(plan.file_bytes for plan in plans)
        self._done = 0
        self._reported = 0.0
        self._on_progress = on_progress
        on_progress(0.0)

    def add(self, count: int) -> None:
        """Count bytes that were read."""
        self._done += count
        fraction = self._done / max(self._total, 1)
        if fraction >= self._reported + 0.01 and fraction < 1:
            self._reported = fraction
            self._on_progress(fraction)

    def finish(self) -> None:
        """Report the end."""
        self._on_progress(1.0)
