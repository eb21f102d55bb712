"""What the planner is told and what it answers: plain records, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sdforge.core.errors import OutOfMemory
from sdforge.memory.budget import MIB, Budget
from sdforge.memory.interleave import UnitSize
from sdforge.memory.policy import MemoryMode
from sdforge.memory.vae_mode import VaeMode


class Placement(StrEnum):
    """Where a component's weights are while the stage runs."""

    RESIDENT = "resident"
    PARTIAL = "partial"  # some units lie on the device, the others stream
    STREAM = "stream"  # only the root and the ring lie there
    HOST = "host"  # not on the device
    CPU = "cpu"  # computes on the host


@dataclass(frozen=True, kw_only=True)
class VaeOption:
    """A way for the VAE to work and the activations it needs, in bytes."""

    mode: VaeMode
    working_bytes: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a stage needs beside weights, in bytes.

    Attributes:
        working_bytes: activations when everything runs in one batch.
        split_bytes: the same with cond and uncond apart; None where there is no such pair.
        vae_options: ways to work, best first; empty for what is no VAE.
    """

    working_bytes: int = 0
    split_bytes: int | None = None
    vae_options: tuple[VaeOption, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ComponentState:
    """What the planner knows of a component. A higher `last_used` was used more recently.

    Attributes:
        total_bytes: all weights, as they travel.
        root_bytes: what lies on the device whenever anything does.
        units: the rest, in execution order; empty for what can only be placed as a whole.
        stream_order: which units give up their place first.
        cast_bytes: decoded weights of the largest unit that is decoded when it runs.
        resident: indices of the units that lie on the device now.
        is_resident: whether its root does, and so the component at least in part.
        is_settled: whether its units were chosen knowing what is known now.
        busy_bytes: ring and decoded weights, while it is leased.
    """

    key: str
    role: str
    total_bytes: int
    root_bytes: int = 0
    units: tuple[UnitSize, ...] = ()
    stream_order: tuple[int, ...] = ()
    cast_bytes: int = 0
    resident: frozenset[int] = frozenset()
    is_resident: bool = False
    is_leased: bool = False
    is_settled: bool = True
    busy_bytes: int = 0
    last_used: int = 0

    @property
    def largest_unit(self) -> int:
        """Bytes of the largest unit."""
        return max((unit.bytes for unit in self.units), default=0)

    @property
    def unit_bytes(self) -> int:
        """Bytes of all units; tied tensors count in each."""
        return sum(unit.bytes for unit in self.units)

    @property
    def fixed_bytes(self) -> int:
        """Bytes that no plan can keep off the device."""
        return self.root_bytes if self.units else self.total_bytes

    @property
    def floor_bytes(self) -> int:
        """The least that running it takes."""
        return self.fixed_bytes + self.largest_unit + self.cast_bytes

    @property
    def held_bytes(self) -> int:
        """What it takes on the device now."""
        return self.bytes_with(self.resident) + self.busy_bytes if self.is_resident else 0

    def bytes_with(self, resident: frozenset[int]) -> int:
        """Return what it takes with these units on the device."""
        if len(resident) == len(self.units):
            return self.total_bytes
        return self.fixed_bytes + sum(unit.bytes for unit in self.units if unit.index in resident)


@dataclass(frozen=True, kw_only=True)
class ResidencyPlan:
    """Where everything is to be during one stage, and why.

    `resident` holds the units of each component that stay on the device; a component that is not
    in it leaves as a whole. Of the active one, `own_bytes` lie on the device, `streamed_bytes`
    travel in each forward and `streamable_bytes` could still be made to. `leaner_vae_modes` counts
    the ways to work that take less than `vae_mode`.
    """

    active: str
    mode: MemoryMode
    placements: dict[str, Placement]
    resident: Mapping[str, frozenset[int]]
    evict: tuple[str, ...]
    resident_bytes: int
    ring_bytes: int
    cast_bytes: int
    streamed_bytes: int
    own_bytes: int
    streamable_bytes: int
    budget: Budget
    vae_mode: VaeMode
    leaner_vae_modes: int
    cond_batching: bool
    reasons: tuple[str, ...]

    @property
    def placement(self) -> Placement:
        """Where the active component is."""
        return self.placements[self.active]

    @property
    def weights_bytes(self) -> int:
        """Everything that weights take on the device: residents, ring and cast buffer."""
        return self.resident_bytes + self.ring_bytes + self.cast_bytes

    @property
    def predicted_peak(self) -> int:
        """Weights and activations together, in bytes."""
        return self.weights_bytes + self.budget.working_bytes

    @property
    def fits(self) -> bool:
        """Whether weights stay within the budget."""
        return self.weights_bytes <= self.budget.weights_bytes

    def describe(self) -> str:
        """Say the plan in one line, for logs and the memory report."""
        placed = ", ".join(f"{key} {where.value}" for key, where in self.placements.items())
        streamed = ""
        if self.streamed_bytes:
            streamed = (
                f", {self.streamed_bytes / MIB:.0f} MiB streamed through a ring of "
                f"{self.ring_bytes / MIB:.0f}"
            )
        return (
            f"{self.mode.value}: {placed}; {self.resident_bytes / MIB:.0f} MiB resident{streamed}, "
            f"peak {self.predicted_peak / MIB:.0f}, {self.budget.describe()}; "
            f"{'; '.join(self.reasons)}"
        )

    def difference(self, before: ResidencyPlan) -> str:
        """Say what changed since another plan of the same component."""
        changes = []
        for name, old, new in (
            ("placement", before.placement.value, self.placement.value),
            ("resident MiB", before.resident_bytes // MIB, self.resident_bytes // MIB),
            ("ring MiB", before.ring_bytes // MIB, self.ring_bytes // MIB),
            ("VAE", before.vae_mode.describe(), self.vae_mode.describe()),
            ("one batch", before.cond_batching, self.cond_batching),
        ):
            if old != new:
                changes.append(f"{name} {old} → {new}")
        return ", ".join(changes) or "nothing changed"


class PlanError(OutOfMemory):
    """No plan can hold a component; `alternatives` says what would help."""

    def __init__(self, message: str, alternatives: Sequence[str]) -> None:
        self.alternatives = tuple(alternatives)
        super().__init__(f"{message}; what helps: {'; '.join(alternatives)}")
