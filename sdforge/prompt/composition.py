"""Several prompts in one: `a AND b :0.5` into weighted parts, each guiding the picture by itself.

Liu et al. 2022, arXiv:2206.01714; `sampling/guidance.py` has the formula. Parts are split before
anything else is read, so an `AND` inside brackets tears them apart (A1111).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r":\s*([-+]?(?:\d+\.?|\d*\.\d+))$")


@dataclass(frozen=True, slots=True)
class Part:
    """A prompt that guides with a weight; negative ones push away."""

    text: str
    weight: float = 1.0


def split_parts(prompt: str) -> tuple[Part, ...]:
    """Return the parts of a prompt, at least one.

    A number after the last colon is a weight, also of a prompt without `AND` (A1111). Not for
    negative prompts.
    """
    return tuple(_part(text) for text in _AND.split(prompt))


def _part(text: str) -> Part:
    text = text.rstrip()
    match = _WEIGHT.search(text)
    weight = float(match[1]) if match else math.inf
    if match is None or not math.isfinite(weight):
        return Part(text)
    return Part(text[: match.start()].rstrip(), weight)
