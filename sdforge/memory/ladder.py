"""What to do when memory runs out although the plan said it would not: one thing after another.

A forward of a network has no random state and its inputs are still held by the caller, so it can be
repeated: the picture is not lost. Everything happens outside of `except`, where the failed
attempt's tensors are no longer referenced. The first rungs leave every number as it was; splitting
a batch and tiles may change the last bit of a sum.
"""

from __future__ import annotations

import logging
import math
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from sdforge.core.errors import OutOfMemory
from sdforge.memory.budget import MIB
from sdforge.memory.device import is_out_of_memory

if TYPE_CHECKING:
    from sdforge.memory.calibration import Key
    from sdforge.memory.lease import Lease
    from sdforge.memory.manager import MemoryManager
    from sdforge.memory.placement import ResidencyPlan

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_RETRIES = 8
# Pictures are made in sizes of this many pixels.
SIZE_STEP = 64
# Where the estimate said that it would fit and it did not, this part of the picture may.
SAFE_PART = 0.75


@dataclass(frozen=True)
class Rung:
    """One thing to try: `apply` does it and says so, or returns None where it changes nothing."""

    name: str
    apply: Callable[[], str | None]
    times: int = 1


class Ladder:
    """The rungs that one job has used; `notes` tells of them in words."""

    def __init__(self, memory: MemoryManager) -> None:
        """Begin at the bottom."""
        self.notes: list[str] = []
        self._memory = memory
        self._used: Counter[tuple[str, str]] = Counter()
        self._retries: Counter[str] = Counter()

    def run(
        self,
        what: str,
        attempt: Callable[[], T],
        rungs: Sequence[Rung],
        hint: Callable[[], str] = lambda: "",
        *,
        learns: Key | None = None,
    ) -> T:
        """Return `attempt()`, repeated after each rung while memory runs out.

        Args:
            what: the stage, for messages; each stage uses each rung once.
            attempt: what to do; it must be repeatable.
            rungs: cheapest first.
            hint: says what would fit, when nothing helped.
            learns: whose estimate was too low; the next plan will be more careful.

        Raises:
            OutOfMemory: nothing helped.
        """
        while True:
            try:
                return attempt()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = (str(error) or type(error).__name__).splitlines()[0]
                traceback.clear_frames(error.__traceback__)
            # Outside the handler: the failed attempt's tensors are gone.
            self._memory.tidy()
            if not self._retries[what]:
                self._memory.learning.failed(learns)
            self._climb(what, said, rungs, hint)

    def _climb(self, what: str, said: str, rungs: Sequence[Rung], hint: Callable[[], str]) -> None:
        self._retries[what] += 1
        if self._retries[what] <= MOST_RETRIES:
            for rung in rungs:
                if self._used[what, rung.name] >= rung.times:
                    continue
                self._used[what, rung.name] += 1
                done = rung.apply()
                if done is not None:
                    log.warning("%s: out of memory (%s); %s", what, said, done)
                    self.notes.append(f"{what}: {rung.name}")
                    return
        total = self._memory.device.total_bytes / MIB
        advice = hint()
        raise OutOfMemory(
            f"{what}: out of memory on {self._memory.compute_device} ({total:.0f} MiB), and "
            f"nothing helped ({said}); {advice or 'try a smaller picture or batch, or --lowvram'}"
        )


def weight_rungs(memory: MemoryManager, lease: Lease | None = None) -> list[Rung]:
    """Return the rungs that make room by moving weights; none of them changes the picture.

    Args:
        memory: the manager.
        lease: held while the rungs are climbed; without one, the next lease obeys.
    """

    def placed() -> ResidencyPlan | None:
        return lease.plan if lease is not None else memory.last_plan

    def again() -> str:
        return lease.replan() if lease is not None else "placed anew"

    def evict() -> str | None:
        plan = placed()
        if memory.evict_all(keep=plan.active if plan else ""):
            return "other components left the device"
        return None

    def halve() -> str | None:
        plan = placed()
        if plan is None or not plan.streamable_bytes:
            return None
        memory.pressure.limits[plan.active] = plan.own_bytes // 2
        return f"half of the weights stay: {again()}"

    def stream() -> str | None:
        plan = placed()
        if plan is None or not plan.streamable_bytes:
            return None
        memory.pressure.streaming.add(plan.active)
        return f"no weights stay: {again()}"

    return [
        Rung("tidied", lambda: "unused memory was given back to the driver"),
        Rung("evicted others", evict),
        Rung("half resident", halve),
        Rung("streamed", stream),
    ]


def vae_rungs(memory: MemoryManager, leaner: Callable[[], int]) -> list[Rung]:
    """Return the rungs for a VAE: room first, then smaller pieces, then its weights.

    Args:
        memory: the manager.
        leaner: how many ways to work there are that take less than the one that failed.
    """

    def smaller() -> str | None:
        if not leaner():
            return None
        memory.pressure.vae_skip += 1
        return "the VAE works in smaller pieces"

    tidied, evicted, halved, streamed = weight_rungs(memory)
    return [tidied, evicted, Rung("smaller VAE pieces", smaller, times=4), halved, streamed]


def size_hint(plan: ResidencyPlan | None, width: int, height: int) -> str:
    """Say which size of a shape should fit beside a plan's weights; "" where none does.

    Args:
        plan: under which that size did not fit.
        width: in pixels.
        height: in pixels.
    """
    if plan is None:
        return ""
    budget = plan.budget
    available = budget.total_bytes - budget.foreign_bytes - budget.reserve_bytes
    size = largest_size(width, height, budget.working_bytes, available - plan.weights_bytes)
    return f"{size[0]} × {size[1]} should fit" if size else ""


def largest_size(
    width: int, height: int, needed_bytes: int, available_bytes: int
) -> tuple[int, int] | None:
    """Return the largest size of this shape whose activations fit, or None when none does.

    Activations grow with the number of pixels (attention is computed without its matrix).

    Args:
        width: in pixels.
        height: in pixels.
        needed_bytes: estimated for that size.
        available_bytes: what activations may take.
    """
    part = min(available_bytes / max(needed_bytes, 1), SAFE_PART)
    if part <= 0:
        return None
    scale = math.sqrt(part)
    sides = [int(side * scale) // SIZE_STEP * SIZE_STEP for side in (width, height)]
    return (sides[0], sides[1]) if min(sides) >= SIZE_STEP else None
