"""Scaled fp8: weights in 8 bits, each with one number beside it that all of them are multiplied by.

As ComfyUI's tools and their relatives write them: `X.scale_weight` or `X.weight_scale` beside
`X.weight`. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

from sdforge.models.families.base import Recipe, Source

SCALE_ENDINGS = ("scale_weight", "weight_scale")
_TYPES = ("F8_E4M3", "F8_E5M2")
_NUMBERS = ("F32", "F16", "BF16")


@lru_cache(maxsize=8)
def scales_of(recipe: Recipe) -> Mapping[str, Source]:
    """Return where the scale of a parameter lies, for those that have one."""
    found: dict[str, Source] = {}
    for name in recipe.skeleton.shapes:
        if recipe.info(name).dtype not in _TYPES:
            continue
        lead = recipe.sources[name].key.removesuffix("weight")
        for ending in SCALE_ENDINGS:
            info = recipe.layout.tensors.get(lead + ending)
            if info is not None and math.prod(info.shape) == 1 and info.dtype in _NUMBERS:
                found[name] = Source(lead + ending, info.shape)
    return found
