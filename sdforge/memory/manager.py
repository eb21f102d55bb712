"""Leases: whoever wants to run a network asks here, and gets it where it can compute.

One model thread takes leases and releases components; `report()` may be called from any thread.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from sdforge.core.errors import OutOfMemory
from sdforge.core.settings import Settings
from sdforge.memory.budget import MIB, Budget
from sdforge.memory.component import Component
from sdforge.memory.device import Device
from sdforge.memory.heap import trim_heap
from sdforge.memory.plan import ComponentState, MemoryMode, ResidencyPlan, plan

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ComponentReport:
    """Bytes of one component, for the memory report."""

    name: str
    role: str
    host_bytes: int
    device_bytes: int


@dataclass(frozen=True, kw_only=True)
class MemoryReport:
    """Who holds how many bytes, and the last plan in words."""

    device: str
    total_bytes: int
    own_bytes: int
    peak_bytes: int
    foreign_bytes: int
    inference_bytes: int
    weights_bytes: int
    mode: str
    components: tuple[ComponentReport, ...]
    last_plan: str


class _Entry:
    """A component that the manager knows, with its state on the device."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self.key = f"{component.role} of {component.name}"
        self.is_resident = False
        self.leases = 0
        self.last_used = 0

    def state(self) -> ComponentState:
        return ComponentState(
            key=self.key,
            role=self.component.role,
            total_bytes=self.component.total_bytes,
            is_resident=self.is_resident,
            is_leased=self.leases > 0,
            last_used=self.last_used,
        )


class MemoryManager:
    """Places components on one device within the budget."""

    def __init__(self, device: Device, *, mode: MemoryMode = MemoryMode.NORMAL) -> None:
        self.device = device
        self.mode = mode
        self.inference_bytes = 1024 * MIB
        self._entries: dict[int, _Entry] = {}
        self._clock = 0
        self._last_plan: ResidencyPlan | None = None

    @property
    def compute_device(self) -> torch.device:
        """Where activations of leased networks belong."""
        return self.device.compute_device

    def configure(self, settings: Settings) -> None:
        """Take `forge_inference_memory` and `memory_mode`; they count from the next lease on."""
        self.inference_bytes = settings.forge_inference_memory * MIB
        self.mode = choose_mode(settings.memory_mode, self.device)

    def budget(self, working_bytes: int = 0) -> Budget:
        """Return the device's budget for a stage that needs `working_bytes` of activations."""
        return Budget(
            total_bytes=self.device.total_bytes,
            inference_bytes=self.inference_bytes,
            reserve_bytes=self.device.reserve_bytes,
            foreign_bytes=self.device.foreign_bytes(),
            working_bytes=working_bytes,
        )

    @contextmanager
    def lease(self, component: Component, *, working_bytes: int = 0) -> Iterator[nn.Module]:
        """Yield the component's network, placed for running.

        It stays where it is until the block ends, whatever else is leased inside. Afterwards it may
        stay on the device until something else needs the room.

        Args:
            component: what to run.
            working_bytes: an estimate of the activations, kept free of weights.

        Raises:
            OutOfMemory: its weights do not fit even with everything else off the device.
        """
        entry = self._entries.setdefault(id(component), _Entry(component))
        self._clock += 1
        entry.last_used = self._clock
        if self.device.is_host:
            entry.is_resident = True
        elif not entry.is_resident or not entry.leases:
            self._place(entry, working_bytes)
        entry.leases += 1
        try:
            yield component.module
        finally:
            entry.leases -= 1

    def release(self, *components: Component) -> None:
        """Forget components: their device copies and host masters are given back."""
        for component in components:
            self._entries.pop(id(component), None)
            component.release()
        gc.collect()
        self.device.empty_cache()
        trim_heap()

    def evict_all(self) -> None:
        """Take every component off the device that is not leased; masters stay on the host."""
        for entry in self._entries.values():
            if not entry.leases:
                self._evict(entry)
        self.device.empty_cache()

    def report(self) -> MemoryReport:
        """Return who holds what."""
        entries = list(self._entries.values())
        on_device = not self.device.is_host
        return MemoryReport(
            device=str(self.compute_device),
            total_bytes=self.device.total_bytes,
            own_bytes=self.device.own_bytes(),
            peak_bytes=self.device.peak_own_bytes(),
            foreign_bytes=self.device.foreign_bytes(),
            inference_bytes=self.inference_bytes,
            weights_bytes=self.budget().weights_bytes,
            mode=self.mode.value,
            components=tuple(
                ComponentReport(
                    name=entry.component.name,
                    role=entry.component.role,
                    host_bytes=entry.component.total_bytes,
                    device_bytes=(
                        entry.component.total_bytes if on_device and entry.is_resident else 0
                    ),
                )
                for entry in entries
            ),
            last_plan=self._last_plan.describe() if self._last_plan else "nothing placed yet",
        )

    def _place(self, entry: _Entry, working_bytes: int) -> None:
        others = [other for other in self._entries.values() if other is not entry]
        decided = plan(
            entry.state(),
            [other.state() for other in others],
            self.budget(working_bytes),
            self.mode,
        )
        self._last_plan = decided
        log.info("placement %s", decided.describe())
        leaving = set(decided.evict)
        for other in others:
            if other.key in leaving:
                self._evict(other)
        if entry.is_resident:
            return
        if not self._upload(entry):
            # Outside the handler, so that nothing of the failed attempt is still referenced.
            self.evict_all()
            gc.collect()
            if not self._upload(entry):
                needed = entry.component.total_bytes / MIB
                raise OutOfMemory(
                    f"the {entry.key} needs {needed:.0f} MiB on {self.compute_device}, which has "
                    f"{self.device.total_bytes / MIB:.0f} MiB; close other programs that use it"
                )

    def _upload(self, entry: _Entry) -> bool:
        """Copy a component to the device; False when it ran out of memory."""
        try:
            entry.component.point_at_copies(self.device.upload)
        except torch.OutOfMemoryError:
            return False
        entry.is_resident = True
        return True

    def _evict(self, entry: _Entry) -> None:
        if entry.is_resident and not self.device.is_host:
            entry.component.point_at_masters()
            entry.is_resident = False


def choose_mode(setting: str, device: Device) -> MemoryMode:
    """Return the mode that the setting `memory_mode` means on this device.

    Streaming parts of a network is not in this version, so `lowvram` places whole components, one
    at a time, as `medvram` does; the launcher says so.
    """
    if setting == "lowvram":
        return MemoryMode.LOWVRAM
    if setting == "medvram":
        return MemoryMode.MEDVRAM
    return MemoryMode.NORMAL
