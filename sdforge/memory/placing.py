"""Carrying plans out: what each component has on the device, and moving it as decided.

`plan.py` decides, from what the settings say (`configure`) and what out-of-memory errors of the job
taught (`pressure`); `residency.py` copies and `executor.py` installs hooks. Leases and books are
`manager.py`'s, which builds on this.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from sdforge.core.errors import OutOfMemory
from sdforge.core.settings import Settings
from sdforge.memory.budget import MIB, Budget
from sdforge.memory.component import Component
from sdforge.memory.device import Device, is_out_of_memory
from sdforge.memory.executor import Execution
from sdforge.memory.lease import CPU, Entry, make_residency, tree_of
from sdforge.memory.placement import Placement, ResidencyPlan, Work
from sdforge.memory.plan import plan
from sdforge.memory.policy import MemoryMode, Policy, Pressure, choose_mode, policy_for

log = logging.getLogger(__name__)


class Placing:
    """Components on one device within the budget."""

    def __init__(
        self,
        device: Device,
        *,
        mode: MemoryMode,
        cpu_roles: frozenset[str],
        keeps: bool,
        unit_cap_bytes: int | None,
    ) -> None:
        """Know no component yet; arguments are `MemoryManager`'s."""
        self.device = device
        self.mode = mode
        self.inference_bytes = 1024 * MIB
        self.offload_layers: tuple[str, ...] = ()
        self.unit_cap_bytes = unit_cap_bytes
        self.pressure = Pressure()
        self.last_plan: ResidencyPlan | None = None
        self._cpu_roles = cpu_roles
        self._keeps = keeps
        self._only_large = False
        self._entries: dict[int, Entry] = {}

    @property
    def compute_device(self) -> torch.device:
        """Where activations of leased networks belong, but for those that run on the host."""
        return self.device.compute_device

    def compute_device_of(self, component: Component) -> torch.device:
        """Return where a component's inputs belong."""
        return CPU if component.role in self._cpu_roles else self.device.compute_device

    def configure(self, settings: Settings) -> None:
        """Take the settings that decide on placing; they count from the next lease on.

        What out-of-memory errors of the last job taught is forgotten.
        """
        self.inference_bytes = settings.forge_inference_memory * MIB
        self.mode, self._only_large = choose_mode(settings.memory_mode)
        self.offload_layers = settings.offload_layers
        self.pressure = Pressure()

    def budget(self, working_bytes: int = 0) -> Budget:
        """Return the device's budget for a stage that needs `working_bytes` of activations."""
        return Budget(
            total_bytes=self.device.total_bytes,
            inference_bytes=self.inference_bytes,
            reserve_bytes=self.device.reserve_bytes,
            foreign_bytes=self.device.foreign_bytes(),
            working_bytes=working_bytes,
        )

    def evict_all(self, *, keep: str = "") -> int:
        """Take every component off the device that is not leased; return the bytes that left.

        Masters stay on the host; the component whose key is `keep` stays altogether.
        """
        leaving = [
            entry for entry in self._entries.values() if not entry.leases and entry.key != keep
        ]
        size = 0 if self.device.is_host else sum(entry.held_bytes for entry in leaving)
        for entry in leaving:
            self._evict(entry)
        self.device.empty_cache()
        return size

    def tidy(self) -> None:
        """Collect garbage and give unused device memory back to the driver."""
        gc.collect()
        self.device.empty_cache()

    # --- one component

    def _entry(self, component: Component) -> Entry:
        """Return what is known of a component; keys are made unique, plans go by them."""
        entry = self._entries.get(id(component))
        if entry is None:
            entry = Entry(component)
            taken = {other.key for other in self._entries.values()}
            if entry.key in taken:
                entry.key += f" ({component.fingerprint[:8]}, {id(component):x})"
            self._entries[id(component)] = entry
        return entry

    def _policy(self, entry: Entry) -> Policy:
        mode = self.mode
        if self._only_large and not any(entry.is_large for entry in self._entries.values()):
            mode = MemoryMode.NORMAL
        policy = policy_for(
            mode,
            can_stream=self.device.can_stream,
            cpu_roles=self._cpu_roles,
            keeps=self._keeps,
        )
        return replace(
            policy,
            offload_layers=self.offload_layers,
            weight_limit=self.pressure.limits.get(entry.key),
            streams=policy.can_stream and (policy.streams or entry.key in self.pressure.streaming),
            vae_skip=self.pressure.vae_skip,
        )

    def _place_on_host(self, entry: Entry) -> None:
        residency = make_residency(entry, self, on_host=True)
        residency.place(())
        entry.execution = Execution(residency, tree_of(entry), self.device, ring_bytes=0)

    def _place(self, entry: Entry, work: Work) -> None:
        """Carry out a plan; when the device says no, a leaner one, down to one unit at a time."""
        make_residency(entry, self, on_host=False)
        others = [other for other in self._entries.values() if other is not entry]
        for attempt in range(4):
            policy = self._policy(entry)
            decided = plan(
                entry.state(), [other.state() for other in others], self.budget(), policy, work
            )
            self.last_plan = entry.plan = decided
            log.info("placement %s", decided.describe())
            if self._apply(entry, others, decided):
                return
            # Outside the handler, so that nothing of the failed attempt is still referenced.
            if attempt == 0:
                self.evict_all()
            elif attempt == 1:
                self.pressure.limits[entry.key] = entry.component.total_bytes // 2
            else:
                self.pressure.streaming.add(entry.key)
            self.tidy()
        raise OutOfMemory(
            f"the {entry.key} needs {decided.weights_bytes / MIB:.0f} MiB on "
            f"{self.compute_device}, which has {self.device.total_bytes / MIB:.0f} MiB; close "
            "other programs that use it"
        )

    def _apply(self, entry: Entry, others: Sequence[Entry], decided: ResidencyPlan) -> bool:
        """Move weights as decided; False when memory ran out on the way."""
        try:
            for other in others:
                if other.residency is not None and not other.leases:
                    keeping = decided.resident.get(other.key)
                    if keeping is None:
                        self._evict(other)
                    elif other.residency.is_placed and keeping < other.residency.units:
                        other.residency.place(keeping)
            self._move(entry, decided)
        except BaseException as error:
            self._stop(entry)
            self._evict(entry)
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _move(self, entry: Entry, decided: ResidencyPlan) -> None:
        residency, tree = make_residency(entry, self, on_host=False), tree_of(entry)
        residency.place(decided.resident[entry.key])
        blocks = self.device.pinned_blocks()
        if blocks is not None and decided.placement is Placement.RESIDENT:
            blocks.release(id(entry.component))
        entry.chosen_by_trace = tree.is_traced
        entry.execution = Execution(residency, tree, self.device, ring_bytes=decided.ring_bytes)

    def _stop(self, entry: Entry) -> None:
        execution, entry.execution = entry.execution, None
        if execution is not None:
            entry.missed += execution.missed
            execution.close()

    def _evict(self, entry: Entry) -> None:
        if entry.residency is not None:
            entry.residency.clear()
