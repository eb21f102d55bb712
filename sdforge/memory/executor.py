"""Carry a placement out while a component is leased: hooks that bring units in and take them out.

No decision is taken here. Before a unit runs its tensors are pointed at its bytes in the ring, or
decoded; afterwards they are pointed back. Where everything lies on the device as it is computed
with, there is nothing to do and no hook is installed.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from sdforge.memory.arena import aligned_bytes
from sdforge.memory.component import Master
from sdforge.memory.device import Device
from sdforge.memory.pinned import PinnedBlocks, shown_in
from sdforge.memory.residency import Residency
from sdforge.memory.ring import Ring, Successors
from sdforge.memory.streams import Copies
from sdforge.memory.trace import Trace
from sdforge.memory.units import Unit, UnitTree


class Execution:
    """Hooks and ring of one lease; `close` undoes all of it, whatever happened meanwhile."""

    def __init__(
        self, residency: Residency, tree: UnitTree, device: Device, *, ring_bytes: int
    ) -> None:
        """Install what the residency leaves to do.

        Raises:
            torch.OutOfMemoryError: the ring does not fit; nothing is installed then.
        """
        self.ring_bytes = 0
        self.cast_peak_bytes = 0
        self._residency = residency
        self._tree = tree
        self._device = device
        self._stack = ExitStack()
        self._layouts: dict[int, dict[int, int]] = {}
        self._ring: Ring | None = None
        self._trace: Trace | None = None
        self._running: Unit | None = None
        with ExitStack() as undo:
            undo.callback(self.close)
            streamed = [unit for unit in tree.units if not self._lies(unit)]
            travelling = {unit.index for unit in streamed}
            if streamed:
                self._make_ring(streamed, ring_bytes)
                if not tree.is_traced:
                    self._trace = Trace(tree)
            for unit in tree.units:
                if unit.index in travelling or any(map(residency.is_read_on_use, unit.masters)):
                    self._hook(unit)
            self._read_root()
            undo.pop_all()

    @property
    def missed(self) -> int:
        """How many units came unexpectedly and were waited for."""
        return self._ring.missed if self._ring else 0

    def recover(self) -> None:
        """Put everything right after an exception inside the network; it may run again."""
        self._running = None
        self._show_home()
        if self._ring is not None:
            self._ring.reset()
        if self._trace is not None:
            self._trace.close(complete=False)
            self._trace = Trace(self._tree) if not self._tree.is_traced else None
        self._read_root()

    def close(self) -> None:
        """Remove hooks and ring; tensors are where the residency has them."""
        if self._trace is not None:
            self._trace.close(complete=self._running is None)
        self._stack.close()
        self._show_home()
        if self._ring is not None:
            self._ring.reset()
        self._ring = None
        self.ring_bytes = 0

    # --- the ring

    def _lies(self, unit: Unit) -> bool:
        return all(map(self._residency.holds, unit.masters))

    def _make_ring(self, streamed: list[Unit], ring_bytes: int) -> None:
        sizes = {}
        for unit in streamed:
            layout, size = {}, 0
            for master in self._travelling(unit):
                layout[master.index] = size
                size += aligned_bytes(master.stored.shape, master.stored.dtype)
            self._layouts[unit.index], sizes[unit.index] = layout, size
        self.ring_bytes = max(ring_bytes, *sizes.values())
        indices = {unit.index for unit in streamed}
        order = [index for index in self._tree.order if index in indices]
        blocks = self._device.pinned_blocks()
        # What is made in inference mode could not be written to outside of it, as hooks do.
        with torch.inference_mode(mode=False):
            if blocks is not None:
                self._lock_sources(streamed, sizes, blocks)
            buffer = self._device.allocate(self.ring_bytes)
        self._ring = Ring(
            buffer,
            self._device.copy_stream(),
            sizes=sizes,
            copies=self._copies,
            successors=Successors(order if self._tree.is_traced else ()),
        )

    def _travelling(self, unit: Unit) -> list[Master]:
        """Return a streamed unit's tensors but for tied ones that lie on the device anyway."""
        return [master for master in unit.masters if not self._residency.holds(master)]

    def _lock_sources(
        self, streamed: list[Unit], sizes: dict[int, int], blocks: PinnedBlocks
    ) -> None:
        owner = id(self._residency.component)
        for unit in streamed:
            known = blocks.get(owner, unit.index)
            if known is None:
                places = [
                    (self._layouts[unit.index][master.index], master.stored)
                    for master in self._travelling(unit)
                ]
                known = blocks.pack(owner, unit.index, sizes[unit.index], places)
            if known is None:
                return

    def _copies(self, index: int, place: torch.Tensor) -> Copies:
        """Return what is copied for a unit: its locked block, or each of its masters."""
        blocks = self._device.pinned_blocks()
        block = blocks.get(id(self._residency.component), index) if blocks else None
        if block is not None and block.numel() == place.numel():
            return [(place, block)]
        return [
            (shown_in(place, offset, master.stored), master.stored)
            for offset, master in (
                (offset, self._residency.component.masters[number])
                for number, offset in self._layouts[index].items()
            )
        ]

    # --- hooks

    def _hook(self, unit: Unit) -> None:
        def before(module: nn.Module, args: Any) -> None:
            self._bring_in(unit)

        def after(module: nn.Module, args: Any, output: Any) -> None:
            self._take_out(unit)

        self._stack.callback(unit.module.register_forward_pre_hook(before).remove)
        self._stack.callback(unit.module.register_forward_hook(after).remove)

    def _bring_in(self, unit: Unit) -> None:
        self._running = unit
        # A view made in inference mode could not be put into a parameter.
        with torch.inference_mode(mode=False), torch.no_grad():
            layout = self._layouts.get(unit.index, {})
            place = None
            if self._ring is not None and unit.index in self._layouts:
                place = self._ring.acquire(unit.index)
            cast = 0
            for master in unit.masters:
                offset = layout.get(master.index)
                stored = (
                    self._residency.home(master)
                    if offset is None or place is None
                    else shown_in(place, offset, master.stored)
                )
                if self._residency.is_read_on_use(master):
                    stored = self._residency.read(master, stored)
                    cast += stored.numel() * stored.element_size()
                master.show(stored)
            self.cast_peak_bytes = max(self.cast_peak_bytes, cast)

    def _take_out(self, unit: Unit) -> None:
        with torch.inference_mode(mode=False), torch.no_grad():
            for master in unit.masters:
                master.show(self._residency.home(master))
            if self._ring is not None:
                self._ring.release()
        self._running = None

    # --- what is not in units

    def _read_root(self) -> None:
        """Decode what lies in the root, for as long as the lease lasts."""
        with torch.inference_mode(mode=False), torch.no_grad():
            for master in self._tree.root:
                if self._residency.is_read_on_use(master):
                    home = self._residency.home(master)
                    master.show(self._residency.read(master, home))

    def _show_home(self) -> None:
        with torch.inference_mode(mode=False), torch.no_grad():
            for master in self._residency.component.masters:
                master.show(self._residency.home(master))
