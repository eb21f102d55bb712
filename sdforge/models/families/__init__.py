"""Kinds of models: one file per family, all behind `base.Family`.

A family recognises its checkpoints, says how each network is built from a file, and puts the loaded
networks to work. Adding one is one file here and one line below.
"""

from __future__ import annotations

from sdforge.core.registry import Registry
from sdforge.models.families.base import Family
from sdforge.models.families.chroma import Chroma
from sdforge.models.families.flux import Flux1
from sdforge.models.families.flux2 import Flux2Dev, Flux2Klein
from sdforge.models.families.lumina2 import Lumina2
from sdforge.models.families.qwen_image import QwenImage
from sdforge.models.families.qwen_image_edit import QwenImageEdit
from sdforge.models.families.sd import StableDiffusion1
from sdforge.models.families.sd2 import StableDiffusion2
from sdforge.models.families.sd3 import StableDiffusion3
from sdforge.models.families.sdxl import SdxlRefiner, StableDiffusionXl
from sdforge.models.families.z_image import ZImage

FAMILIES: Registry[Family] = Registry("model family")
for _family in (
    StableDiffusion1(),
    StableDiffusion2(),
    StableDiffusionXl(),
    SdxlRefiner(),
    StableDiffusion3(),
    Flux1(),
    Flux2Klein(),
    Flux2Dev(),
    Chroma(),
    ZImage(),
    QwenImage(),
    QwenImageEdit(),
    Lumina2(),
):
    FAMILIES.add(_family.name, _family)
