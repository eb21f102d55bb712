"""Kinds of models: one file per family, all behind `base.Family`.

A family recognises its checkpoints, says how each network is built from a file, and puts the loaded
networks to work. Adding one is one file here and one line below.
"""

from __future__ import annotations

from sdforge.core.registry import Registry
from sdforge.models.families.base import Family
from sdforge.models.families.sd import StableDiffusion1

FAMILIES: Registry[Family] = Registry("model family")
FAMILIES.add(StableDiffusion1.name, StableDiffusion1())
