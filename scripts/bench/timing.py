"""How the benchmarks measure: two things in turn, in one run, compared as a ratio.

Absolute times differ from machine to machine and from minute to minute; what is timed A B A B… on
one thread with the garbage collector off differs far less. The ratio of each round is taken and
then the median of those, so that a slow minute weighs on both sides.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ROUNDS = 9
WARM_UPS = 2


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure: ours ÷ peer, and the ratio that must not be exceeded.

    `id` is the suite's (C4), `name` what was measured, `peer` what with; `ours` and `theirs` are
    medians in `unit`; `details` goes into the JSON only.
    """

    id: str
    name: str
    peer: str
    ratio: float
    target: float
    ours: float = 0.0
    theirs: float = 0.0
    unit: str = "s"
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def is_ok(self) -> bool:
        """Whether the target holds."""
        return self.ratio <= self.target


@dataclass(frozen=True)
class Comparison:
    """Seconds of each round, ours and the peer's."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median over the rounds of ours ÷ theirs."""
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))

    def row(self, id: str, name: str, peer: str, target: float, **details: Any) -> Row:
        """Return the comparison as a row of the report."""
        return Row(
            id=id,
            name=name,
            peer=peer,
            ratio=self.ratio,
            target=target,
            ours=statistics.median(self.ours),
            theirs=statistics.median(self.theirs),
            details={"ours_s": self.ours, "theirs_s": self.theirs, **details},
        )


def compare(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    rounds: int = ROUNDS,
    warm_ups: int = WARM_UPS,
    before: Callable[[], object] | None = None,
) -> Comparison:
    """Time two functions in turn; `before` runs untimed ahead of each call."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(warm_ups + rounds):
        for function, times in zip((ours, theirs), seconds, strict=True):
            if before is not None:
                before()
            spent = time_once(function)
            if number >= warm_ups:
                times.append(spent)
    return Comparison(tuple(seconds[0]), tuple(seconds[1]))


def time_once(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes, with the garbage collector off."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started
    finally:
        if was_enabled:
            gc.enable()
