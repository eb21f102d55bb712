"""Leases: whoever wants to run a network asks here, and gets it where it can compute.

One model thread takes leases and releases components; `report()` may be called from any thread.
Decisions are `plan.py`'s, moving weights is `placing.py`'s; this file keeps the books and sees that
they are right after any exception.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from sdforge.core.errors import OutOfMemory
from sdforge.core.settings import Settings
from sdforge.memory.calibration import Key
from sdforge.memory.component import Component
from sdforge.memory.device import Device, is_out_of_memory
from sdforge.memory.heap import trim_heap
from sdforge.memory.ladder import Ladder
from sdforge.memory.learning import Learning
from sdforge.memory.lease import Entry, Lease, is_plain, make_residency, tree_of
from sdforge.memory.placement import VaeOption, Work
from sdforge.memory.placing import Placing
from sdforge.memory.plan import plan
from sdforge.memory.policy import MemoryMode
from sdforge.memory.report import MemoryReport
from sdforge.memory.residency import DeviceResidency

log = logging.getLogger(__name__)


class MemoryManager(Placing):
    """Places components on one device within the budget."""

    def __init__(
        self,
        device: Device,
        *,
        mode: MemoryMode = MemoryMode.NORMAL,
        cpu_roles: frozenset[str] = frozenset(),
        keeps: bool = True,
        unit_cap_bytes: int | None = None,
        learning: Learning | None = None,
    ) -> None:
        """Know no component yet.

        Args:
            device: where networks run.
            mode: how to place them; `configure` changes it.
            cpu_roles: those that run on the host all the same (`--vae-in-cpu`).
            keeps: whether components may stay on the device after their stage.
            unit_cap_bytes: size of the pieces that stream; by kind of network when None.
            learning: what earlier runs taught about activations; None begins anew.
        """
        super().__init__(
            device, mode=mode, cpu_roles=cpu_roles, keeps=keeps, unit_cap_bytes=unit_cap_bytes
        )
        self.learning = learning or Learning.fresh(device)
        self.ladder = Ladder(self)
        self._clock = 0
        self._peak_bytes = 0
        self._activation_bytes = 0

    def configure(self, settings: Settings) -> None:
        """Take the settings that decide on placing; they count from the next lease on.

        What out-of-memory errors of the last job taught is forgotten, and its ladder with it.
        """
        super().configure(settings)
        self.ladder = Ladder(self)

    def lease(
        self,
        component: Component,
        *,
        working_bytes: int = 0,
        split_bytes: int | None = None,
        vae_options: Sequence[VaeOption] = (),
        learns: Key | None = None,
    ) -> Lease:
        """Return the right to run a component; `with` puts it in place and yields its network.

        It stays where it is until the block ends, whatever else is leased inside. Afterwards it may
        stay on the device until something else needs the room.

        Args:
            component: what to run.
            working_bytes: an estimate of the activations, kept free of weights.
            split_bytes: the same with cond and uncond apart; None where there is no such pair.
            vae_options: ways for a VAE to work, best first; the plan chooses one.
            learns: what the measured activations teach about, see `learning.key`.

        Raises:
            OutOfMemory: (by `with`) it cannot run on this device, even with all else off it.
        """
        options = tuple(vae_options)
        work = Work(working_bytes=working_bytes, split_bytes=split_bytes, vae_options=options)
        return Lease(self, component, work, learns)

    def prefetch(self, component: Component, *, working_bytes: int = 0) -> int:
        """Begin to copy a component to the device, beside what computes now; return the bytes.

        Only into room that is free: nothing leaves for it, and where nothing is free nothing
        happens. Its next lease waits for the copies.

        Args:
            component: what will run next.
            working_bytes: its activations then, see `lease`.
        """
        if not self.device.can_stream or component.role in self._cpu_roles:
            return 0
        entry = self._entry(component)
        policy = self._policy(entry)
        residency = make_residency(entry, self, on_host=False)
        if entry.leases or policy.streams or not isinstance(residency, DeviceResidency):
            return 0
        others = [
            replace(other.state(), is_leased=True)
            for other in self._entries.values()
            if other is not entry
        ]
        before = residency.held_bytes
        try:
            decided = plan(
                entry.state(), others, self.budget(), policy, Work(working_bytes=working_bytes)
            )
            if decided.fits:
                residency.prefetch(decided.resident[entry.key])
                entry.plan = decided
                entry.chosen_by_trace = tree_of(entry).is_traced
        except BaseException as error:
            self._evict(entry)
            if not is_out_of_memory(error) and not isinstance(error, OutOfMemory):
                raise
        return max(residency.held_bytes - before, 0)

    def enter(self, lease: Lease, stack: ExitStack) -> None:
        """Put a lease's component in place; `stack` gets what undoes it. For `Lease` only."""
        component = lease.component
        entry = self._entry(component)
        self._clock = entry.last_used = self._clock + 1
        on_host = self.device.is_host or component.role in self._cpu_roles
        if on_host and is_plain(component) and entry.residency is None:
            if not entry.leases:
                stack.callback(self._leave, entry)
            self._take(entry, stack)
            return
        if not on_host:
            if not any(other.leases for other in self._entries.values()):
                self._note_peak()
                self.device.reset_peak()
                stack.callback(self._measure, lease)
            stack.enter_context(self.device.computing())
        if not entry.leases:
            stack.callback(self._leave, entry)
            if on_host:
                self._place_on_host(entry)
            else:
                self._place(entry, lease.work)
        self._take(entry, stack)
        lease.plan = entry.plan

    def _take(self, entry: Entry, stack: ExitStack) -> None:
        entry.leases += 1
        stack.callback(_give_back, entry)

    def _leave(self, entry: Entry) -> None:
        """Take hooks and ring away when the last lease ends."""
        self._stop(entry)
        if not self._policy(entry).keeps and not self.device.is_host:
            self._evict(entry)

    def recover(self, lease: Lease) -> None:
        """Make a leased network fit to run again after an exception inside it."""
        entry = self._entries[id(lease.component)]
        if entry.execution is not None:
            entry.execution.recover()

    def replan(self, lease: Lease) -> str:
        """Place a leased component anew, as `pressure` and patches are now; return what changed."""
        entry = self._entries[id(lease.component)]
        self._stop(entry)
        if (before := entry.plan) is None:
            self._place_on_host(entry)
            return "nothing changed"
        self._place(entry, lease.work)
        lease.plan = entry.plan
        return lease.plan.difference(before) if lease.plan else ""

    def release(self, *components: Component) -> None:
        """Forget components: their device copies and host masters are given back."""
        blocks = self.device.pinned_blocks()
        for component in components:
            entry = self._entries.pop(id(component), None)
            if entry is not None:
                self._stop(entry)
                self._evict(entry)
            if blocks is not None:
                blocks.release(id(component))
            component.release()
        self.tidy()
        trim_heap()

    def report(self) -> MemoryReport:
        """Return who holds what."""
        entries = list(self._entries.values())
        blocks = self.device.pinned_blocks()
        return MemoryReport(
            device=str(self.compute_device),
            total_bytes=self.device.total_bytes,
            own_bytes=self.device.own_bytes(),
            peak_bytes=max(self._peak_bytes, self.device.peak_own_bytes()),
            foreign_bytes=self.device.foreign_bytes(),
            inference_bytes=self.inference_bytes,
            weights_bytes=self.budget().weights_bytes,
            held_weights_bytes=sum(entry.held_bytes for entry in entries),
            ring_bytes=sum(entry.ring_bytes for entry in entries),
            cast_bytes=sum(entry.cast_bytes for entry in entries),
            pinned_bytes=blocks.used_bytes if blocks is not None else 0,
            activation_bytes=self._activation_bytes,
            streamed_misses=sum(entry.missed for entry in entries),
            mode=self.mode.value,
            components=tuple(entry.report(on_host=self.device.is_host) for entry in entries),
            last_plan=self.last_plan.describe() if self.last_plan else "nothing placed yet",
        )

    # --- the books

    def _note_peak(self) -> None:
        self._peak_bytes = max(self._peak_bytes, self.device.peak_own_bytes())

    def _measure(self, lease: Lease) -> None:
        """Take down what a stage held beside weights at most."""
        entries = self._entries.values()
        weights = sum(entry.held_bytes for entry in entries)
        ring = lease.plan.ring_bytes if lease.plan else 0
        self._note_peak()
        lease.activation_bytes = max(self.device.peak_own_bytes() - weights - ring, 0)
        self._activation_bytes = lease.activation_bytes
        if lease.plan is not None and not lease.ran_out:
            self.learning.measured(
                lease.learns, lease.plan.budget.working_bytes, lease.activation_bytes
            )


def _give_back(entry: Entry) -> None:
    entry.leases -= 1
