"""A lease: the right to run a network, and the word on how it lies while it is held."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import nn

from sdforge.memory.calibration import Key
from sdforge.memory.component import Component
from sdforge.memory.executor import Execution
from sdforge.memory.placement import ComponentState, Placement, ResidencyPlan, Work
from sdforge.memory.policy import LARGE_PARAMETERS
from sdforge.memory.report import ComponentReport
from sdforge.memory.residency import DeviceResidency, HostResidency, Residency
from sdforge.memory.units import UnitTree
from sdforge.memory.vae_mode import VaeMode

if TYPE_CHECKING:
    from sdforge.memory.manager import MemoryManager
    from sdforge.memory.placing import Placing

CPU = torch.device("cpu")


class Entry:
    """A component that the manager knows, with what of it lies on the device.

    `tree` and `residency` are made when they are first needed; on the host, for plain weights, they
    never are.
    """

    def __init__(self, component: Component) -> None:
        self.component = component
        self.key = f"{component.role} of {component.name}"
        self.tree: UnitTree | None = None
        self.residency: Residency | None = None
        self.execution: Execution | None = None
        self.plan: ResidencyPlan | None = None
        self.leases = 0
        self.last_used = 0
        # Whether the units that lie on the device were chosen by an order that was seen.
        self.chosen_by_trace = False
        self.missed = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of copies."""
        return self.residency.held_bytes if self.residency is not None else 0

    @property
    def ring_bytes(self) -> int:
        """Bytes of the ring, while it streams."""
        return self.execution.ring_bytes if self.execution is not None else 0

    @property
    def cast_bytes(self) -> int:
        """The most that decoded weights took in this lease."""
        return self.execution.cast_peak_bytes if self.execution is not None else 0

    @property
    def is_large(self) -> bool:
        """Whether medvram-sdxl means the model that this component belongs to."""
        limit = LARGE_PARAMETERS.get(self.component.role)
        return limit is not None and self.component.parameter_count >= limit

    def report(self, *, on_host: bool) -> ComponentReport:
        """Return who holds what of it; on the host, nothing is on a device."""
        placement = Placement.CPU if on_host else Placement.HOST
        if self.plan is not None and self.held_bytes:
            placement = self.plan.placement
        return ComponentReport(
            name=self.component.name,
            role=self.component.role,
            host_bytes=self.component.total_bytes,
            device_bytes=0 if on_host else self.held_bytes,
            placement=placement.value,
        )

    def state(self) -> ComponentState:
        """Return what the planner needs to know."""
        tree, residency = self.tree, self.residency
        if tree is None or residency is None or isinstance(residency, HostResidency):
            return ComponentState(
                key=self.key,
                role=self.component.role,
                total_bytes=self.component.total_bytes,
                is_leased=self.leases > 0,
                last_used=self.last_used,
            )
        return ComponentState(
            key=self.key,
            role=self.component.role,
            total_bytes=self.component.total_bytes,
            root_bytes=tree.root_bytes,
            units=tree.sizes,
            stream_order=tree.stream_order,
            cast_bytes=tree.cast_bytes(self.component),
            resident=residency.units,
            is_resident=residency.is_placed,
            is_leased=self.leases > 0,
            is_settled=self.chosen_by_trace == tree.is_traced,
            busy_bytes=self.ring_bytes + self.cast_bytes,
            last_used=self.last_used,
        )


class Lease:
    """Puts a component where it can run; `with` yields its network.

    Attributes:
        component: what runs.
        plan: how it lies; None for plain weights on the host, which lie where they always do.
        vae_mode: how the VAE is to work.
        cond_batching: whether cond and uncond may run as one batch.
        device: where its inputs belong.
        activation_bytes: after the end, the most that was held beside weights.
        learns: what that teaches about; None for nothing.
        ran_out: whether memory ran out meanwhile.
    """

    def __init__(
        self, manager: MemoryManager, component: Component, work: Work, learns: Key | None = None
    ) -> None:
        self.component = component
        self.work = work
        self.plan: ResidencyPlan | None = None
        self.device = manager.compute_device_of(component)
        self.activation_bytes = 0
        self.learns = learns
        self.ran_out = False
        self._manager = manager
        self._stack = ExitStack()

    @property
    def vae_mode(self) -> VaeMode:
        """How the VAE is to work."""
        if self.plan is not None:
            return self.plan.vae_mode
        return self.work.vae_options[0].mode if self.work.vae_options else VaeMode()

    @property
    def cond_batching(self) -> bool:
        """Whether cond and uncond may run as one batch."""
        return self.plan is None or self.plan.cond_batching

    def __enter__(self) -> nn.Module:
        module = self.component.module
        with ExitStack() as stack:
            self._manager.enter(self, stack)
            self._stack = stack.pop_all()
        return module

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def recover(self) -> None:
        """Make the network fit to run again after an exception inside it."""
        self._manager.recover(self)

    def replan(self) -> str:
        """Place the component anew, under what the manager learnt since; say what changed."""
        return self._manager.replan(self)


def make_residency(entry: Entry, manager: Placing, *, on_host: bool) -> Residency:
    """Return the entry's residency, made now if it is the first time."""
    if entry.tree is None:
        entry.tree = UnitTree(entry.component, manager.unit_cap_bytes)
    if entry.residency is not None and isinstance(entry.residency, HostResidency) == on_host:
        return entry.residency
    if entry.residency is not None:
        entry.residency.clear()
    if on_host:
        entry.residency = HostResidency(entry.component, entry.tree)
    else:
        entry.residency = DeviceResidency(entry.component, entry.tree, manager.device)
    return entry.residency


def is_plain(component: Component) -> bool:
    """Tell whether masters can be computed with as they lie."""
    return not component.has_patches and not component.has_decoders


def tree_of(entry: Entry) -> UnitTree:
    """Return an entry's units, which are there once it has a residency."""
    if entry.tree is None:
        raise ValueError(f"the {entry.key} was not cut into units yet")
    return entry.tree
