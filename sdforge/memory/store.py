"""Owner of all weights on the host: which networks are held, for which checkpoints, and who leaves.

A component is held once however many checkpoints have it. A `Holding` is one loaded checkpoint: the
keys of its components and whatever its loader made of them. Holdings leave whole, least recently
used first; a component goes with the last holding that has it. Only the model thread changes the
store; `report()` and `wants_tending()` may be called from any thread.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from sdforge.core.errors import OutOfMemory, SdforgeError
from sdforge.memory.component import Component
from sdforge.memory.holdings import (
    Holding,
    HoldingReport,
    HostState,
    Limits,
    Reserved,
    Slot,
    SlotReport,
    StoreReport,
)
from sdforge.memory.leaks import Leaks
from sdforge.memory.pressure import HostMemory, automatic_budget, read_host_memory

log = logging.getLogger(__name__)

_MIB = 1024 * 1024


class HostStore:
    """All components that have weights on the host."""

    def __init__(
        self,
        release: Callable[..., None],
        *,
        read_memory: Callable[[], HostMemory] = read_host_memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Hold nothing yet.

        Args:
            release: gives components back, device copies and masters (`MemoryManager.release`).
            read_memory: says how much main memory there is.
            clock: seconds that only grow.
        """
        self._release = release
        self._read_memory = read_memory
        self._clock = clock
        self._limits = Limits()
        self._slots: dict[str, Slot] = {}
        self._holdings: dict[str, Holding] = {}
        # Evicted while leased: nobody new gets them, their components stay until the lease ends.
        self._leaving: list[Holding] = []
        self._protected: frozenset[str] = frozenset()
        self._being_loaded: set[str] | None = None
        # Keys of slots whose components are being made ahead of their load.
        self._reserved: set[str] = set()
        self._leaks = Leaks()
        # For readers on other threads; the model thread alone changes the dictionaries.
        self._lock = threading.RLock()

    # --- limits --------------------------------------------------------------------------------

    def configure(self, limits: Limits) -> None:
        """Take new limits; they count from the next load on."""
        self._limits = limits

    def protect(self, keys: Collection[str]) -> None:
        """Let holdings of these keys, wanted soon, leave only after all others."""
        self._protected = frozenset(keys)

    @property
    def host_bytes(self) -> int:
        """Memory of our own that components take."""
        with self._lock:
            return sum(slot.host_bytes for slot in self._slots.values())

    def budget_bytes(self, memory: HostMemory | None = None) -> int:
        """Return how much `host_bytes` may be; one checkpoint alone may take more."""
        if self._limits.host_bytes:
            return self._limits.host_bytes
        return automatic_budget(memory or self._read_memory(), self.host_bytes)

    # --- components ----------------------------------------------------------------------------

    def component(self, key: str) -> Component | None:
        """Return a component that is held, or None."""
        slot = self._slots.get(key)
        return slot.component if slot is not None and slot.state is HostState.HOST else None

    def load(self, key: str, role: str, name: str, make: Callable[[], Component]) -> Component:
        """Make a component and hold it, inside a `loading` block.

        Raises:
            SdforgeError: the key is held already; whatever `make` raises.
        """
        is_new = key not in self._slots or key in self._reserved
        if not is_new or self._being_loaded is None:
            raise SdforgeError(f"the {role} of {name} was loaded twice or outside of a load")
        slot = Slot(key=key, role=role, name=name, state=HostState.LOADING)
        self._being_loaded.add(key)
        with self._lock:
            self._reserved.discard(key)
            self._slots[key] = slot
        try:
            component = make()
            slot.host_bytes = sum(arena.total_bytes for arena in component.arenas)
            slot.mapped_bytes = max(component.total_bytes - slot.host_bytes, 0)
            slot.component, slot.state = component, HostState.HOST
        finally:
            if slot.state is not HostState.HOST:
                slot.state = HostState.DEAD
                with self._lock:
                    del self._slots[key]
        return component

    # --- holdings ------------------------------------------------------------------------------

    def holding(self, key: str, *, touch: bool = True) -> Holding | None:
        """Return a checkpoint that is held and can be used, or None; `touch` makes it used now."""
        holding = self._holdings.get(key)
        if holding is not None and touch:
            holding.last_used = self._clock()
        return holding

    def holdings(self) -> list[Holding]:
        """Return all checkpoints that are held."""
        return list(self._holdings.values())

    def hold(self, key: str, title: str, slots: Sequence[str], value: object) -> Holding:
        """Record a checkpoint whose components are all held.

        Raises:
            SdforgeError: one of them is not.
        """
        missing = [slot for slot in slots if self.component(slot) is None]
        if missing:
            raise SdforgeError(f"{title} cannot be held: {len(missing)} of its parts are not")
        holding = Holding(
            key=key, title=title, slots=tuple(slots), value=value, last_used=self._clock()
        )
        with self._lock:
            self._holdings[key] = holding
        return holding

    @contextmanager
    def lease(self, holding: Holding) -> Iterator[None]:
        """Keep a checkpoint while the block runs; an eviction asked for meanwhile comes after."""
        holding.leases += 1
        try:
            yield
        finally:
            holding.leases -= 1
            holding.last_used = self._clock()
            if holding in self._leaving and not holding.leases:
                self.evict(holding)

    def evict(self, holding: Holding) -> int:
        """Give a checkpoint's memory back, or mark it when it is leased; return the bytes freed."""
        with self._lock:
            if self._holdings.get(holding.key) is holding:
                del self._holdings[holding.key]
                self._leaving.append(holding)
        if holding.leases or holding not in self._leaving:
            return 0
        self._leaving.remove(holding)
        holding.value = None
        used = self._used()
        return self._evict_slots(
            [self._slots[key] for key in set(holding.slots) - used if key in self._slots]
        )

    def evict_all(self) -> int:
        """Give back everything that is not leased; return the bytes freed."""
        return sum(self.evict(holding) for holding in list(self._holdings.values()))

    # --- room ----------------------------------------------------------------------------------

    @contextmanager
    def loading(self, needed: int, *, reused: Collection[str] = ()) -> Iterator[None]:
        """Make room for one more checkpoint, which the block loads and then hands to `hold`.

        The least recently used ones leave; none does when even that would not be enough. Parts that
        the block has loaded and not put into a holding are gone after it.

        Args:
            needed: bytes of our own memory that it takes beyond what is held.
            reused: keys of held components that it has too; they stay.

        Raises:
            OutOfMemory: it does not fit into main memory.
        """
        memory = self._read_memory()
        free = self._freed_by(self._idle(), reused)
        # Swap counts: slow is better than refused.
        room = memory.available + memory.swap_free + free
        if needed > room:
            raise OutOfMemory(
                f"loading needs {needed // _MIB} MiB of main memory, {room // _MIB} MiB can be "
                f"had ({memory.available // _MIB} available, {memory.swap_free // _MIB} swap, "
                f"{free // _MIB} of other checkpoints); close other programs or take a smaller "
                "checkpoint"
            )
        self._being_loaded = set(reused)
        try:
            self._make_room(needed, memory)
            yield
        finally:
            self._being_loaded = None
            used = self._used()
            self._evict_slots([slot for key, slot in self._slots.items() if key not in used])

    def _make_room(self, needed: int, memory: HostMemory) -> None:
        while len(self._holdings) >= self._limits.holdings and self._evict_next():
            pass
        budget = self.budget_bytes(memory)
        while self.host_bytes + needed > budget and self._evict_next(must_free=True):
            pass
        while self._read_memory().available < needed + memory.low_mark:
            if not self._evict_next(must_free=True):
                break

    def reserve(
        self, parts: Sequence[Reserved], *, reused: Collection[str], keep: Collection[str]
    ) -> bool:
        """Set memory aside for a checkpoint that is read before anybody asks for it.

        Holdings leave for it, least recently used first, but for those that are leased, protected
        or in `keep`; when that would not be enough, none does. Called between loads; at most one
        checkpoint has memory set aside. `load` takes its parts over, `drop_reserved` gives up.

        Returns:
            whether the memory is there.
        """
        memory, budget = self._read_memory(), self.budget_bytes()
        needed = sum(part.host_bytes for part in parts)
        stays = {*keep, *self._protected}
        idle = [holding for holding in self._idle() if holding.key not in stays]
        leaving: list[Holding] = []

        def fits() -> bool:
            freed = self._freed_by(leaving, reused)
            return (
                len(self._holdings) - len(leaving) < self._limits.holdings
                and self.host_bytes - freed + needed <= budget
                and memory.available + freed - needed >= memory.high_mark
            )

        while not fits():
            if not idle:
                return False
            leaving.append(idle.pop(0))
        for holding in leaving:
            self.evict(holding)
        made = {part.key: Slot(**vars(part), state=HostState.LOADING) for part in parts}
        with self._lock:
            self._reserved |= made.keys()
            self._slots |= made
        return True

    def drop_reserved(self, components: Sequence[Component] = ()) -> None:
        """Give up what was set aside and not taken over; `components` is what was made of it."""
        if components:  # releasing collects garbage, which takes long
            self._release(*components)
        with self._lock:
            for key in self._reserved:
                self._slots.pop(key).state = HostState.DEAD
            self._reserved.clear()

    def tend(self) -> bool:
        """Answer pressure and idleness; return whether anything was evicted.

        Under pressure all but the newest checkpoint leave, as far as needed; after the idle time
        all do.
        """
        before = len(self._holdings)
        if self._is_idle():
            log.info("no picture for %.0f s: models are unloaded", self._limits.idle_seconds)
            self.evict_all()
        wanted = self._read_memory().shortage
        while wanted > 0 and len(self._holdings) > 1:
            held = self.host_bytes
            if not self._evict_next(must_free=True):
                break
            wanted -= held - self.host_bytes
        return len(self._holdings) < before

    def wants_tending(self) -> bool:
        """Say whether `tend` would have something to do; for any thread."""
        with self._lock:
            several = len(self._holdings) > 1 or bool(self._reserved)
        return self._is_idle() or (several and self._read_memory().shortage > 0)

    # --- report --------------------------------------------------------------------------------

    def report(self) -> StoreReport:
        """Return who holds what; for any thread."""
        memory, now = self._read_memory(), self._clock()
        with self._lock:
            slots, holdings = list(self._slots.values()), list(self._holdings.values())
            host = sum(slot.host_bytes for slot in slots)
            return StoreReport(
                host_bytes=host,
                mapped_bytes=sum(slot.mapped_bytes for slot in slots),
                budget_bytes=self.budget_bytes(memory),
                most_checkpoints=self._limits.holdings,
                available_bytes=memory.available,
                total_bytes=memory.total,
                is_over_budget=host > self.budget_bytes(memory),
                leaked_handles=self._leaks.count(),
                components=tuple(
                    SlotReport(
                        role=slot.role,
                        name=slot.name,
                        state=slot.state.value,
                        host_bytes=slot.host_bytes,
                        mapped_bytes=slot.mapped_bytes,
                        checkpoints=tuple(h.title for h in holdings if slot.key in h.slots),
                    )
                    for slot in slots
                ),
                checkpoints=tuple(self._describe(holding, now) for holding in holdings),
            )

    def _describe(self, holding: Holding, now: float) -> HoldingReport:
        slots = [self._slots[key] for key in set(holding.slots) if key in self._slots]
        return HoldingReport(
            title=holding.title,
            host_bytes=sum(slot.host_bytes for slot in slots),
            own_bytes=self._freed_by([holding], ()),
            mapped_bytes=sum(slot.mapped_bytes for slot in slots),
            leases=holding.leases,
            idle_seconds=now - holding.last_used,
        )

    # --- inside --------------------------------------------------------------------------------

    def _idle(self) -> list[Holding]:
        """Return what may leave, in the order in which it should."""
        free = [holding for holding in self._holdings.values() if not holding.leases]
        return sorted(free, key=lambda h: (h.key in self._protected, h.last_used))

    def _is_idle(self) -> bool:
        limit = self._limits.idle_seconds
        with self._lock:
            holdings = list(self._holdings.values())
        if not limit or not holdings or any(holding.leases for holding in holdings):
            return False
        return self._clock() - max(holding.last_used for holding in holdings) >= limit

    def _freed_by(self, leaving: Sequence[Holding], reused: Collection[str]) -> int:
        """Return the bytes that are free when these holdings have left."""
        holdings = (*self._holdings.values(), *self._leaving)
        staying = {key for h in holdings if h not in leaving for key in h.slots}
        staying |= {*(self._being_loaded or ()), *self._reserved, *reused}
        return sum(slot.host_bytes for key, slot in self._slots.items() if key not in staying)

    def _evict_next(self, *, must_free: bool = False) -> bool:
        """Evict the next in order; with `must_free` the next whose eviction frees bytes."""
        for holding in self._idle():
            if not must_free or self._freed_by([holding], ()) > 0:
                self.evict(holding)
                return True
        return False

    def _used(self) -> set[str]:
        holdings = (*self._holdings.values(), *self._leaving)
        used = {key for holding in holdings for key in holding.slots}
        return used | self._reserved | (self._being_loaded or set())

    def _evict_slots(self, slots: Sequence[Slot]) -> int:
        """Release components: emptied tensors, pages given back, and a look who held on."""
        if not slots:
            return 0
        freed = sum(slot.host_bytes for slot in slots)
        components = [slot.component for slot in slots if slot.component is not None]
        modules = [weakref.ref(component.module) for component in components]
        for slot in slots:
            slot.state = HostState.EVICTING
        try:
            self._release(*components)
        finally:
            for slot in slots:
                slot.state, slot.component = HostState.DEAD, None
                with self._lock:
                    del self._slots[slot.key]
        del components
        self._leaks.watch(modules)
        return freed
