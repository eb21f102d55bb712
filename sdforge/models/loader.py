"""Checkpoints on demand: build what a request names from what the store holds and what files hold.

Everything about a new checkpoint that headers can tell is checked while the old ones still work;
then the store makes room, and only then weights are read. Parts that are equal to parts held
already, in whatever file, are taken from there. Model thread only; `report` is for any.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from sdforge.core.errors import SdforgeError
from sdforge.core.model_choice import ModelChoice
from sdforge.core.settings import Settings
from sdforge.memory.arena import ALIGNMENT
from sdforge.memory.component import Component
from sdforge.memory.holdings import Holding, Limits, Reserved, StoreReport
from sdforge.memory.manager import MemoryManager
from sdforge.memory.store import HostStore
from sdforge.models.attention import Attend
from sdforge.models.attention_kernels import use_kernel
from sdforge.models.bundle import LazyIdentity, ModelBundle
from sdforge.models.compute_types import Precision, choose_precision
from sdforge.models.library import Library
from sdforge.models.prefetch import Prefetch
from sdforge.models.quant import AUTOMATIC, Storage, choose_storage
from sdforge.models.read_ahead import ReadAhead
from sdforge.models.wanted import Beside, PartFinder, PlannedPart, Wanted, key_of, resolve
from sdforge.models.weights import LoadPlan, load_component

__all__ = ["ModelProvider", "Precision", "choose_precision"]

log = logging.getLogger(__name__)

_MIB = 1024 * 1024
# How often somebody looks how far a read-ahead has come, and whether the job was cancelled.
_LOOK_SECONDS = 0.05


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
        attention: Attend | None = None,
    ) -> None:
        """Load nothing yet; without `store` an own one is made, without `attention` torch's."""
        self._attention = attention
        self.store = store or HostStore(memory.release)
        self._library = library
        self._memory = memory
        self._precision = precision
        self._storage_choice = AUTOMATIC
        self._current: Holding | None = None
        # Where weights are computed with as they lie, they must lie as an allocator would put them.
        alignment = ALIGNMENT if memory.device.is_host else 1
        self._finder = PartFinder(lambda key: self.store.component(key) is not None, alignment)
        self._ahead: ReadAhead | None = None
        self._warming: Prefetch | None = None

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
        files = self._library.find_vae(vae, info), self._library.find_modules(modules)
        beside = Beside(*files, self._storage_choice)
        key = key_of(info, beside, self._storage)
        holding = self.store.holding(key) if key is not None else None
        if holding is None:
            wanted = resolve(info, beside, self._storage)
            self._await_ahead(wanted, on_progress)
            holding = self._load(wanted, self._finder.parts(wanted), on_progress)
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
        self._give_up()
        return self.store.evict_all()

    def unload_one(self, title: str) -> int:
        """Give back one checkpoint's memory, whichever VAE it was loaded with; return the bytes.

        Raises:
            UnknownName: no checkpoint of that name.
        """
        info = self._library.find(title)
        self._give_up()
        return sum(
            self.store.evict(holding)
            for holding in self.store.holdings()
            if isinstance(holding.value, ModelBundle) and holding.value.info.path == info.path
        )

    def tend(self) -> bool:
        """Give memory back that the machine needs, or all after the idle time; True if any."""
        gives_up = self._ahead is not None and self.store.wants_tending()
        if gives_up:
            self._give_up()
        return self.store.tend() or gives_up

    def expect(self, choices: Sequence[ModelChoice], *, modules: Sequence[str] = ()) -> None:
        """Say which models are in use and come next, soonest first; () for none.

        Those in memory stay there, and the first other one is read into it, where there is room
        beside them: within the limits, and with nothing driven out that is in use or comes soon.
        Without room its file is read all the same, for the system to have its pages at hand.

        Args:
            choices: the models; what they leave open is as in the last `configure`.
            modules: names of files that bring parts, as for `get`, where a choice leaves it open.

        Raises:
            UnknownName, MissingModel, UnsupportedCheckpoint, CorruptCheckpoint: the next one cannot
                be loaded.
        """
        protected, first = [self._current.key] if self._current else [], None
        for choice in choices:
            info = self._library.find(choice.checkpoint)
            names = modules if choice.modules is None else choice.modules
            files = self._library.find_vae(choice.vae, info), self._library.find_modules(names)
            beside = Beside(*files, choice.storage or self._storage_choice)
            key = key_of(info, beside, self._storage)
            if key is not None and self.store.holding(key, touch=False) is not None:
                protected.append(key)
            elif first is None:
                first = info, beside, key
        self.store.protect(protected)
        if first is None:
            self._give_up()
        elif self._ahead is None or self._ahead.key != first[2]:
            self._give_up()
            self._read_ahead(resolve(*first[:2], self._storage))

    def report(self) -> StoreReport:
        """Return who holds main memory; for any thread."""
        return self.store.report()

    def _storage(self, role: str, choice: str) -> Storage:
        return choose_storage(self._precision.of(role), choice if role == "denoiser" else AUTOMATIC)

    # --- reading ahead -------------------------------------------------------------------------

    def _read_ahead(self, wanted: Wanted) -> None:
        """Begin to read a checkpoint, into the store or, without room, past it."""
        parts = self._finder.parts_unread(wanted)
        reserved = [
            Reserved(
                key=part.key,
                role=role,
                name=wanted.headers[role].path.stem,
                host_bytes=part.plan.host_bytes,
            )
            for role, part in parts.items()
            if part.plan is not None and not part.alike
        ]
        reused = {key for part in parts.values() for key in (*part.alike, part.key)}
        keep = [self._current.key] if self._current is not None else []
        if self.store.reserve(reserved, reused=reused, keep=keep):
            held = {
                key: content
                for part in parts.values()
                for key in part.alike
                if (content := self._finder.content(key)) is not None
            }
            identify = partial(self._library.start_identity, wanted.info, wanted.vae_path)
            self._ahead = ReadAhead(wanted, parts, held, identify)
        elif self._warming is None or self._warming.path != wanted.info.path:
            self._stop_warming()
            self._warming = Prefetch(wanted.info.path)

    def _await_ahead(self, wanted: Wanted, on_progress: Callable[[float], None]) -> None:
        """Let the read-ahead of what is to be loaded come to its end; give up any other."""
        ahead = self._ahead
        if ahead is None or ahead.key != wanted.key:
            self._give_up()
            return
        while not ahead.wait(_LOOK_SECONDS):
            on_progress(ahead.done_bytes / max(ahead.total_bytes, 1))
        for role, key in ahead.equal.items():
            self._finder.learn(wanted, role, key)

    def _give_up(self) -> None:
        """Forget what was read ahead and not loaded, and give its memory back."""
        self._stop_warming()
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            self.store.drop_reserved(ahead.give_up())

    def _stop_warming(self) -> None:
        warming, self._warming = self._warming, None
        if warming is not None:
            warming.cancel()

    # --- loading -------------------------------------------------------------------------------

    def _load(
        self,
        wanted: Wanted,
        parts: Mapping[str, PlannedPart],
        on_progress: Callable[[float], None],
    ) -> Holding:
        started = time.perf_counter()
        there = self._ahead.ready if self._ahead is not None else frozenset()
        missing = [part.plan for part in parts.values() if part.plan and part.key not in there]
        needed = sum(plan.host_bytes for plan in missing)
        reused = [part.key for part in parts.values() if part.plan is None]
        with self.store.loading(needed, reused=reused):
            # Beside the reading: its pages are hashed while they are warm, and the sum is there by
            # the time of the first picture.
            identity = self._ahead.identity if self._ahead is not None else None
            identity = identity or self._library.start_identity(wanted.info, wanted.vae_path)
            components = self._read(wanted, parts, on_progress)
            if self._attention is not None:
                use_kernel(components["denoiser"].module, self._attention)
            made = wanted.family.assemble(wanted.match, components, self._memory, wanted.headers)
            bundle = ModelBundle(
                key=wanted.key,
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
            holding = self.store.hold(wanted.key, wanted.info.relative, keys, bundle)
        self._give_up()
        log.info(
            "loaded %s (%s) in %.2f s: %s",
            wanted.info.relative,
            ", ".join(
                role if part.key not in there else f"{role} read ahead"
                for role, part in parts.items()
                if part.plan
            )
            or "all parts were there",
            time.perf_counter() - started,
            wanted.match.reason,
        )
        return holding

    def _read(
        self,
        wanted: Wanted,
        parts: Mapping[str, PlannedPart],
        on_progress: Callable[[float], None],
    ) -> dict[str, Component]:
        progress = _Progress([part.plan for part in parts.values() if part.plan], on_progress)
        components = {}
        for role, part in parts.items():
            held = self.store.component(part.key)
            components[role] = held or self._read_part(wanted, role, part, progress)
        progress.finish()
        return components

    def _read_part(
        self, wanted: Wanted, role: str, part: PlannedPart, progress: _Progress
    ) -> Component:
        plan, name = part.plan, wanted.headers[role].path.stem
        if plan is None:
            raise SdforgeError(f"the {role} of {name} left memory while it was being reused")

        ahead = self._ahead.take(part.key) if self._ahead is not None else None

        def make() -> Component:
            if ahead is not None:
                progress.add(plan.file_bytes)
                return ahead
            return load_component(plan, name=name, fingerprint=part.key, on_progress=progress.add)

        return self.store.load(part.key, role, name, make)


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
