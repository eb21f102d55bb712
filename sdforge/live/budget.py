"""How good a frame may be in the time there is. Pure: measured times in, a quality out.

A quality is a size, a number of steps and a decoder. They are given up from the least to the most
visible: first the decoder, then steps, then the size. The best one whose predicted time fits the
budget is taken; to become better again, it has to fit with room to spare, so that a frame that is a
little late now and then does not change the picture's size back and forth.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdforge.core.frame import DECODERS, FULL, LINEAR, SMALL

# A better quality has to fit into this share of the budget; the one in use may exceed it by this
# much.
_ROOM_TO_RISE = 0.8
_TOLERANCE = 1.1
# Frames whose median counts: one that had to share the processor changes nothing.
_MEASURED = 5
# By work, a standard VAE's decoder (128 wide) costs 18 times a small one (2.51 : 0.141 TFLOP at
# 512²); measured on CPUs, where a narrow VAE gains less, it is never under 2.5 times.
_STANDARD_RATIO, _STANDARD_WIDTH, _LEAST_RATIO = 18.0, 128, 2.5


@dataclass(frozen=True)
class Quality:
    """What a frame is drawn with."""

    width: int
    height: int
    steps: int
    decoder: str

    @property
    def pixels(self) -> int:
        """Pixels of the frame."""
        return self.width * self.height


def qualities(
    sizes: Sequence[tuple[int, int]], steps: Sequence[int], decoders: Sequence[str]
) -> list[Quality]:
    """Return all combinations, best first.

    Args:
        sizes: (width, height), largest first.
        steps: most first.
        decoders: best first.
    """
    return [
        Quality(width, height, count, decoder)
        for width, height in sizes
        for count in steps
        for decoder in decoders
    ]


class _Measured:
    """Seconds per unit of work, of the last frames.

    The first frame of a checkpoint pays for what is done once; it counts only until the second.
    """

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=_MEASURED)
        self._count = 0

    def add(self, value: float) -> None:
        self._count += 1
        if self._count == 2:
            self._values.clear()
        self._values.append(value)

    @property
    def value(self) -> float | None:
        return statistics.median(self._values) if self._values else None


class Costs:
    """What stages were measured to take, in seconds per unit of their work."""

    def __init__(self) -> None:
        self._step = _Measured()
        self._decode = {name: _Measured() for name in DECODERS}
        self._fixed = _Measured()
        self._vae_width = _STANDARD_WIDTH

    @property
    def is_known(self) -> bool:
        """Whether anything was measured yet."""
        return self._step.value is not None

    def add(self, quality: Quality, timings: Mapping[str, float], *, vae_width: int) -> None:
        """Take note of a frame.

        Args:
            quality: that it was drawn with; its decoder is the one that was used.
            timings: seconds by stage.
            vae_width: of the checkpoint's VAE.
        """
        self._vae_width = vae_width
        self._step.add(timings.get("denoise", 0.0) / max(quality.pixels * quality.steps, 1))
        decode = timings.get("decode", 0.0) + timings.get("copy", 0.0)
        self._decode[quality.decoder].add(decode / max(quality.pixels, 1))
        self._fixed.add(sum(timings.get(name, 0.0) for name in ("tokenise", "encode", "input")))

    def predicted(self, quality: Quality) -> float:
        """Return the seconds that a frame of some quality will take; 0 before anything is known."""
        step = self._step.value
        if step is None:
            return 0.0
        denoise = step * quality.pixels * quality.steps
        decode = self._decoding(quality.decoder) * quality.pixels
        return (self._fixed.value or 0.0) + denoise + decode

    def _decoding(self, decoder: str) -> float:
        """Return seconds per pixel, by what another decoder took where this one never ran."""
        known = {name: one.value for name, one in self._decode.items()}
        if (own := known[decoder]) is not None:
            return own
        narrower = (self._vae_width / _STANDARD_WIDTH) ** 2
        ratio = max(_STANDARD_RATIO * narrower, _LEAST_RATIO)
        full, small = known[FULL], known[SMALL]
        if decoder == FULL and small is not None:
            return small * ratio
        if decoder == SMALL and full is not None:
            return full / ratio
        return 0.0


def choose(
    possible: Sequence[Quality], costs: Costs, budget: float, current: Quality | None = None
) -> Quality:
    """Return the quality of the next frame.

    Args:
        possible: best first, at least one.
        costs: what was measured; before the first frame the quickest of the largest size is taken.
        budget: seconds.
        current: that of the last frame.
    """
    if not costs.is_known:
        largest = [one for one in possible if one.pixels == possible[0].pixels]
        return min(largest, key=lambda one: (one.steps, -_SPEED.get(one.decoder, 0)))
    place = possible.index(current) if current in possible else None
    for number, one in enumerate(possible):
        seconds = costs.predicted(one)
        if place is None:
            fits = seconds <= budget
        elif number < place:
            fits = seconds <= budget * _ROOM_TO_RISE
        else:
            fits = seconds <= budget * (_TOLERANCE if number == place else 1.0)
        if fits:
            return one
    return min(possible, key=costs.predicted)


_SPEED = {FULL: 0, SMALL: 1, LINEAR: 2}
