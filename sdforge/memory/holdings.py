"""What the store of main memory keeps and reports: plain records, no behaviour.

`store.py` moves them through their states.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sdforge.memory.component import Component


class HostState(StrEnum):
    """Where a component is in its life; LOADING ends in HOST or DEAD, EVICTING in DEAD."""

    EMPTY = "empty"
    LOADING = "loading"
    HOST = "host"
    EVICTING = "evicting"
    DEAD = "dead"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much the store may hold.

    `holdings` counts checkpoints, `host_bytes` is for memory of our own (0: automatic); pages of
    mapped files are the system's and count for neither. `idle_seconds` 0 is never.
    """

    holdings: int = 10
    host_bytes: int = 0
    idle_seconds: float = 0.0


@dataclass(eq=False, kw_only=True)
class Slot:
    """One component's place in the store."""

    key: str
    role: str
    name: str
    state: HostState = HostState.EMPTY
    component: Component | None = None
    host_bytes: int = 0
    mapped_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Reserved:
    """A component to come, and the memory of our own that it will take."""

    key: str
    role: str
    name: str
    host_bytes: int


@dataclass(eq=False, kw_only=True)
class Holding:
    """A loaded checkpoint; `value` is what its loader made of the components."""

    key: str
    title: str
    slots: tuple[str, ...]
    value: object
    leases: int = 0
    last_used: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SlotReport:
    """One component: who has it and what it takes, in bytes."""

    role: str
    name: str
    state: str
    host_bytes: int
    mapped_bytes: int
    checkpoints: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class HoldingReport:
    """One checkpoint in the store; `own_bytes` would be freed if it alone left."""

    title: str
    host_bytes: int
    own_bytes: int
    mapped_bytes: int
    leases: int
    idle_seconds: float


@dataclass(frozen=True, kw_only=True)
class StoreReport:
    """Who holds main memory, and what may be held, in bytes."""

    host_bytes: int
    mapped_bytes: int
    budget_bytes: int
    most_checkpoints: int
    available_bytes: int
    total_bytes: int
    is_over_budget: bool
    leaked_handles: int
    components: tuple[SlotReport, ...] = ()
    checkpoints: tuple[HoldingReport, ...] = ()
