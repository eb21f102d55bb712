"""What of one component lies on the device: copies of its root and of some units.

Copies stay between leases. They are made from masters and dropped, never written back. On the host
nothing is copied but what patches change.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch

from sdforge.memory.arena import Arena, aligned_bytes
from sdforge.memory.component import Component, Master, Patch
from sdforge.memory.device import Device
from sdforge.memory.pinned import shown_in
from sdforge.memory.streams import CopyStream, Event
from sdforge.memory.units import UnitTree


class Residency(Protocol):
    """Where a component's tensors are when no unit of it runs."""

    component: Component

    def place(self, units: Iterable[int]) -> None:
        """Hold the root and exactly these units; torch's out-of-memory error may interrupt it."""

    def clear(self) -> None:
        """Hold nothing."""

    def home(self, master: Master) -> torch.Tensor:
        """Return what the network is to see of a master: its copy, or itself."""

    def holds(self, master: Master) -> bool:
        """Tell whether it can be computed with, as it lies or after decoding."""

    def read(self, master: Master, stored: torch.Tensor) -> torch.Tensor:
        """Return what the network computes with: `stored` decoded and patched, where it lies."""

    def is_read_on_use(self, master: Master) -> bool:
        """Tell whether it has to be decoded or patched whenever its unit runs."""

    @property
    def units(self) -> frozenset[int]:
        """The units that are held."""

    @property
    def is_placed(self) -> bool:
        """Whether the root is held."""

    @property
    def held_bytes(self) -> int:
        """Bytes of all copies."""


class DeviceResidency:
    """Copies on an accelerator."""

    def __init__(self, component: Component, tree: UnitTree, device: Device) -> None:
        """Hold nothing yet."""
        self.component = component
        self._tree = tree
        self._device = device
        self._copies: dict[int, tuple[torch.Tensor, Patch | None]] = {}
        self._is_placed = False
        self._stream: CopyStream | None = None
        self._arrival: Event = None
        device.manage([master.stored for master in component.masters])

    def place(self, units: Iterable[int]) -> None:
        """Drop what is not wanted, then copy what is missing."""
        self._arrive()
        wanted = {master.index: master for master in self._tree.root}
        for unit in units:
            wanted.update({master.index: master for master in self._tree.units[unit].masters})
        with torch.inference_mode(mode=False), torch.no_grad():
            for index in [index for index in self._copies if self._is_stale(index, wanted)]:
                self._drop(index)
            for master in wanted.values():
                if master.index not in self._copies:
                    self._copy(master)
        self._is_placed = True

    def prefetch(self, units: Iterable[int]) -> None:
        """Begin to copy the root and these units beside what computes now; drop nothing.

        The next `place` waits for the end. Patched weights are left to it.

        Raises:
            torch.OutOfMemoryError: nothing was prefetched then, and nothing is held.
        """
        self._arrive()
        wanted = {master.index: master for master in self._tree.root}
        for unit in units:
            wanted.update({master.index: master for master in self._tree.units[unit].masters})
        missing = [
            master
            for master in wanted.values()
            if master.index not in self._copies and self._patch(master) is None
        ]
        self._stream = self._stream or self._device.copy_stream()
        with torch.inference_mode(mode=False), torch.no_grad():
            for master in missing:
                size = aligned_bytes(master.stored.shape, master.stored.dtype)
                copy = shown_in(self._device.allocate(size), 0, master.stored)
                # The block may still be read by computing that was issued before it was freed.
                self._arrival = self._stream.copy([(copy, master.stored)], self._stream.mark())
                self._copies[master.index] = (copy, None)
        self._is_placed = True

    def _arrive(self) -> None:
        """Let computing wait for what was prefetched, so that it may be used, or dropped."""
        if self._stream is not None and self._arrival is not None:
            self._stream.wait(self._arrival)
            self._arrival = None
            with torch.inference_mode(mode=False), torch.no_grad():
                for index, (copy, _) in self._copies.items():
                    self.component.masters[index].show(copy)

    def _is_stale(self, index: int, wanted: dict[int, Master]) -> bool:
        master = wanted.get(index)
        return master is None or self._copies[index][1] != self._patch(master)

    def _patch(self, master: Master) -> Patch | None:
        """Return what a copy is made with: packed weights are patched after they are decoded."""
        return None if master.decode else self.component.patch_of(master)

    def _copy(self, master: Master) -> None:
        copy = self._device.upload(master.stored)
        patch = self._patch(master)
        if patch is not None:
            with self._device.computing():
                copy = self.read(master, copy)
        self._copies[master.index] = (copy, patch)
        master.show(copy)

    def _drop(self, index: int) -> None:
        master = self.component.masters[index]
        master.show(master.stored)
        del self._copies[index]

    def clear(self) -> None:
        """Drop all copies."""
        self._arrive()
        self._is_placed = False
        with torch.inference_mode(mode=False), torch.no_grad():
            for index in list(self._copies):
                self._drop(index)

    def home(self, master: Master) -> torch.Tensor:
        """Return the copy, or the master where there is none."""
        found = self._copies.get(master.index)
        return found[0] if found else master.stored

    def holds(self, master: Master) -> bool:
        """Tell whether there is a copy."""
        return master.index in self._copies

    def read(self, master: Master, stored: torch.Tensor) -> torch.Tensor:
        """Return what the network computes with, from what lies on the device."""
        return self.component.read(master, stored, self._device.upload)

    def is_read_on_use(self, master: Master) -> bool:
        """Packed weights are; plain ones when they stream and are patched."""
        if master.decode is not None:
            return True
        return not self.holds(master) and self.component.patch_of(master) is not None

    @property
    def units(self) -> frozenset[int]:
        """The units all of whose tensors have copies."""
        if not self._is_placed:
            return frozenset()
        return frozenset(
            unit.index
            for unit in self._tree.units
            if all(master.index in self._copies for master in unit.masters)
        )

    @property
    def is_placed(self) -> bool:
        """Whether the last placing came to its end."""
        return self._is_placed

    @property
    def held_bytes(self) -> int:
        """Bytes of all copies."""
        return sum(copy.numel() * copy.element_size() for copy, _ in self._copies.values())


class HostResidency:
    """Masters in place; plain weights that are patched have copies in an arena of their own."""

    def __init__(self, component: Component, tree: UnitTree) -> None:
        """Hold nothing yet."""
        self.component = component
        self._tree = tree
        self._scratch: Arena | None = None
        self._copies: dict[int, torch.Tensor] = {}
        self._patch_key = ""

    def place(self, units: Iterable[int]) -> None:
        """Merge the patches in force, if they changed."""
        if self._patch_key == self.component.patch_key:
            return
        self.clear()
        patched = [
            master
            for master in self.component.masters
            if master.decode is None and self.component.patch_of(master) is not None
        ]
        sizes = (aligned_bytes(master.stored.shape, master.stored.dtype) for master in patched)
        self._scratch = Arena(sum(sizes))
        with torch.inference_mode(mode=False), torch.no_grad():
            for master in patched:
                place = self._scratch.allocate(master.stored.shape, master.stored.dtype)
                place.copy_(self.component.read(master, master.stored))
                self._copies[master.index] = place
                master.show(place)
        self._patch_key = self.component.patch_key

    def clear(self) -> None:
        """Give the patched copies back."""
        with torch.inference_mode(mode=False), torch.no_grad():
            for index in self._copies:
                master = self.component.masters[index]
                master.show(master.stored)
        self._copies = {}
        self._patch_key = ""
        if self._scratch is not None:
            self._scratch.release()
            self._scratch = None

    def home(self, master: Master) -> torch.Tensor:
        """Return the patched copy, or the master."""
        return self._copies.get(master.index, master.stored)

    def holds(self, master: Master) -> bool:
        """Return true: the host holds everything."""
        return True

    def read(self, master: Master, stored: torch.Tensor) -> torch.Tensor:
        """Return what the network computes with."""
        return self.component.read(master, stored)

    def is_read_on_use(self, master: Master) -> bool:
        """Packed weights are."""
        return master.decode is not None

    @property
    def units(self) -> frozenset[int]:
        """All of them."""
        return frozenset(unit.index for unit in self._tree.units)

    @property
    def is_placed(self) -> bool:
        """Return true."""
        return True

    @property
    def held_bytes(self) -> int:
        """Bytes of patched copies."""
        return self._scratch.total_bytes if self._scratch else 0
