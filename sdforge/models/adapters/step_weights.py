"""Weights of a LoRA over the steps of a pass: `step=5-10`, `start=`, `stop=`, `1@0,0.5@10`.

The first three are spelled as by the extension LoRA Block Weight, the last as by loractl. Time is
what share of the steps is done, or how many. No torch here.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from dataclasses import dataclass

_POINT = re.compile(r"\s*([^@~]+?)\s*[@~]\s*([^@~]+?)\s*")
_RANGE = re.compile(r"\s*([0-9.]*)\s*-\s*([0-9.]*)\s*")


@dataclass(frozen=True)
class Moment:
    """A place in a pass: after so many steps, or after a share of them."""

    value: float
    is_share: bool

    def step(self, steps: int) -> float:
        """Return after how many of `steps` steps it is, not necessarily whole."""
        return self.value * steps if self.is_share else self.value


@dataclass(frozen=True)
class StepWeights:
    """What multiplies a LoRA in the denoiser while a pass goes on.

    Attributes:
        points: (moment, weight) in order of time, straight lines between; () for 1 throughout.
        start: it is off before; None for the beginning.
        stop: it is off from then on; None for never.
    """

    points: tuple[tuple[Moment, float], ...] = ()
    start: Moment | None = None
    stop: Moment | None = None

    def at(self, step: int, steps: int) -> float:
        """Return the weight when `step` of `steps` steps are done."""
        if self.start is not None and step < self.start.step(steps):
            return 0.0
        if self.stop is not None and step >= self.stop.step(steps):
            return 0.0
        if not self.points:
            return 1.0
        times = [moment.step(steps) for moment, _ in self.points]
        after = bisect_right(times, step)
        if after in (0, len(times)):
            return self.points[min(after, len(times) - 1)][1]
        (_, low), (_, high) = self.points[after - 1], self.points[after]
        way = (step - times[after - 1]) / (times[after] - times[after - 1])
        return low + (high - low) * way


def parse_moment(text: str) -> Moment | None:
    """Return the moment of '10' (steps) or '0.5' (a share), None when it is no such number."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value) or value < 0:
        return None
    return Moment(value, is_share="." in text)


def parse_range(text: str) -> tuple[Moment | None, Moment | None] | None:
    """Return start and stop of '5-10', '0.2-' or '-10', None when it is no range."""
    match = _RANGE.fullmatch(text)
    if match is None or not (match[1] or match[2]):
        return None
    found = [parse_moment(part) if part else None for part in match.groups()]
    wrong = any(part and one is None for part, one in zip(match.groups(), found, strict=True))
    return None if wrong else (found[0], found[1])


def parse_points(text: str) -> tuple[tuple[Moment, float], ...] | None:
    """Return the points of '1@0,0.5@10', None when it is no such list.

    Times up to 1 are shares when none is above, as loractl has it; a weight without a time is that
    at the end.
    """
    found: list[tuple[float, float]] = []
    for part in re.split("[,;]", text):
        match = _POINT.fullmatch(part)
        try:
            weight = float(match[1] if match else part)
            time = float(match[2]) if match else 1.0
        except ValueError:
            return None
        if not (math.isfinite(weight) and math.isfinite(time) and time >= 0):
            return None
        found.append((time, weight))
    found.sort(key=lambda point: point[0])
    are_shares = found[-1][0] <= 1
    return tuple((Moment(time, are_shares), weight) for time, weight in found)
