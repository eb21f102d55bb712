"""Checkpoints that were distilled to draw in a few steps, by their name or metadata.

Their weights look like any other's of the family; what differs is how they are to be run. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sdforge.core.request import Recommended


@dataclass(frozen=True)
class FastKind:
    """A kind, the sign it was recognised by, and what it is to be run with."""

    name: str
    sign: str
    recommended: Recommended


# Word → (kind, steps unless the name says, CFG scale, sampler), the more particular first.
_KINDS: tuple[tuple[str, str, int, float, str], ...] = (
    ("dmd2?", "dmd2", 4, 1.0, "LCM"),
    ("lightning", "lightning", 4, 1.0, "Euler"),
    ("hyper", "hyper", 8, 1.0, "Euler a"),
    ("turbo", "turbo", 4, 1.0, "Euler a"),
    ("lcm", "lcm", 6, 1.5, "LCM"),
)
_STEPS = re.compile(r"(?<!\d)(\d{1,2})[-_ ]?steps?(?![a-z])")
_MOST_STEPS = 16
_TITLES = ("modelspec.title", "modelspec.architecture", "modelspec.tags")
_WORD = r"(?<![a-z]){}(?![a-z])"
# Names are often written without spaces: someModelV2TurboDPM.
_SEAMS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def signs_of(kind: FastKind | None) -> str:
    """Return what a reason says of a kind at its end; "" for none."""
    return f"; {kind.name}, {kind.sign}" if kind else ""


def fast_kind(name: str, metadata: Mapping[str, str], *, side: int = 1024) -> FastKind | None:
    """Return what kind of fast checkpoint a file is, None for a usual one.

    Args:
        name: of the file, without suffix.
        metadata: of the file.
        side: native size in pixels of the family's fast kinds other than Turbo, which has 512.
    """
    texts = [(name, "going by its name")]
    texts += [(metadata[key], f"its {key} says") for key in _TITLES if key in metadata]
    for text, sign in texts:
        folded = _SEAMS.sub("_", text).casefold()
        for word, kind, steps, cfg_scale, sampler in _KINDS:
            if re.search(_WORD.format(word), folded):
                said = _STEPS.search(folded)
                own = int(said[1]) if said and 1 <= int(said[1]) <= _MOST_STEPS else steps
                native = 512 if kind == "turbo" else side
                recommended = Recommended(
                    width=native, height=native, steps=own, cfg_scale=cfg_scale, sampler=sampler
                )
                return FastKind(kind, sign, recommended)
    return None


def with_defaults(said: Recommended, usual: Recommended) -> Recommended:
    """Return what a file says, and what is usual for its kind where it says nothing."""
    missing = {
        name: getattr(usual, name)
        for name in ("width", "height", "steps", "cfg_scale", "distilled_cfg_scale", "sampler")
        if getattr(said, name) is None
    }
    return replace(said, **missing)
