"""Decide where components go for the next stage: a pure function, printable, no torch.

`plan()` says which component becomes resident and which ones leave; `manager.py` carries it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sdforge.memory.budget import MIB, Budget


class MemoryMode(StrEnum):
    """A1111's words. `NORMAL` keeps what fits; `MEDVRAM` keeps one component at a time."""

    NORMAL = "normal"
    MEDVRAM = "medvram"
    LOWVRAM = "lowvram"


class Placement(StrEnum):
    """Where a component's weights are while the stage runs."""

    RESIDENT = "resident"
    HOST = "host"


@dataclass(frozen=True, kw_only=True)
class ComponentState:
    """What the planner knows of a component. A higher `last_used` was used more recently."""

    key: str
    role: str
    total_bytes: int
    is_resident: bool = False
    is_leased: bool = False
    last_used: int = 0


@dataclass(frozen=True, kw_only=True)
class ResidencyPlan:
    """Where everything is to be during one stage, and why."""

    active: str
    mode: MemoryMode
    placements: dict[str, Placement]
    evict: tuple[str, ...]
    resident_bytes: int
    budget: Budget
    reasons: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the resident bytes stay within the budget."""
        return self.resident_bytes <= self.budget.weights_bytes

    def describe(self) -> str:
        """Say the plan in one line, for logs and the memory report."""
        placed = ", ".join(f"{key} {where.value}" for key, where in self.placements.items())
        return (
            f"{self.mode.value}: {placed}; {self.resident_bytes / MIB:.0f} MiB resident, "
            f"{self.budget.describe()}; {'; '.join(self.reasons)}"
        )


def plan(
    active: ComponentState,
    others: Sequence[ComponentState],
    budget: Budget,
    mode: MemoryMode,
) -> ResidencyPlan:
    """Place `active` on the device and decide which of the others stay there.

    Others leave when the mode keeps one component only, or, least recently used first, when the
    budget is short. A leased component never leaves. A plan may exceed the budget (`fits` is then
    false): the caller decides whether to try.
    """
    reasons: list[str] = []
    staying = [state for state in others if state.is_resident]
    leaving: list[ComponentState] = []
    if mode is not MemoryMode.NORMAL:
        leaving = [state for state in staying if not state.is_leased]
        staying = [state for state in staying if state.is_leased]
        if leaving:
            reasons.append(f"{mode.value} keeps one component on the device")
    used = active.total_bytes + sum(state.total_bytes for state in staying)
    for state in sorted(staying, key=lambda state: state.last_used):
        if used <= budget.weights_bytes:
            break
        if not state.is_leased:
            leaving.append(state)
            used -= state.total_bytes
            reasons.append(f"{state.key} leaves to make room")
    left = {state.key for state in leaving}
    placements = {active.key: Placement.RESIDENT}
    for state in others:
        stays = state.is_resident and state.key not in left
        placements[state.key] = Placement.RESIDENT if stays else Placement.HOST
    if used > budget.weights_bytes:
        reasons.append("does not fit the budget")
    return ResidencyPlan(
        active=active.key,
        mode=mode,
        placements=placements,
        evict=tuple(state.key for state in leaving),
        resident_bytes=used,
        budget=budget,
        reasons=tuple(reasons) or ("fits",),
    )
