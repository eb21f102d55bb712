"""A client's picture → what a ControlNet sees of it, at the size of the picture to draw.

Preprocessing happens at a size of its own; the result is fitted to the drawn size by the unit's
resize mode. Plain arrays, no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from sdforge.core.control import DEFAULT_RESOLUTION, RESIZE_MODES, ControlUnit
from sdforge.postprocess.edges import Check, unchecked
from sdforge.postprocess.preprocessors import PREPROCESSORS, Preprocessor
from sdforge.postprocess.resizing import RESIZE_AND_FILL, resized

# What inpainting ControlNets were trained to see where nothing is known.
_UNKNOWN = -1.0
_WHITE = np.float32(255)
# A longer side of more than so many shorter ones makes both shorter: of a line of pixels the
# resolution that was asked for would be gigabytes.
_LONGEST = 8


@dataclass(frozen=True, eq=False)
class ControlPicture:
    """What a network sees.

    Attributes:
        pixels: float32 (height, width, 3) from 0 to 1, −1 where nothing is known.
        shown: the same as a picture.
        mask: where the unit acts, float32 (height, width) from 0 to 1; None for everywhere.
    """

    pixels: npt.NDArray[np.float32]
    shown: Image.Image
    mask: npt.NDArray[np.float32] | None = None


def control_picture(
    unit: ControlUnit,
    image: Image.Image,
    mask: Image.Image | None,
    width: int,
    height: int,
    check: Check = unchecked,
) -> ControlPicture:
    """Return what a unit's network sees.

    Args:
        unit: its preprocessor and how pictures are fitted.
        image: RGB, of any size.
        mask: white where it counts, of any size; None for none.
        width: of the picture to draw.
        height: of the picture to draw.
        check: called between the parts of the work; it may raise to stop.

    Raises:
        UnknownName: no such preprocessor.
    """
    preprocessor = PREPROCESSORS.get(unit.module, "controlnet.module")
    mode = RESIZE_MODES.index(unit.resize_mode)
    made = image
    if preprocessor.process is not None:
        resolution = working_resolution(unit, image.size, width, height)
        thresholds = unit.threshold_a, unit.threshold_b
        made = detected(preprocessor, image, resolution, *thresholds, check=check)
    shown = resized(made, mode, width, height)
    pixels = np.asarray(shown).astype(np.float32) / _WHITE
    if mask is None:
        return ControlPicture(pixels, shown)
    # Fitted as the picture is, so it has to have that one's proportions first.
    whole = mask.convert("RGB").convert("L").resize(image.size, Image.Resampling.BILINEAR)
    where = np.asarray(resized(whole, mode, width, height)).astype(np.float32) / _WHITE
    if not preprocessor.paints_over:
        return ControlPicture(pixels, shown, where)
    is_unknown = where > 0.5
    pixels[is_unknown] = _UNKNOWN
    seen = Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))
    return ControlPicture(pixels, seen)


def detected(
    preprocessor: Preprocessor,
    image: Image.Image,
    resolution: int,
    a: float = -1,
    b: float = -1,
    *,
    check: Check = unchecked,
) -> Image.Image:
    """Return what a preprocessor makes of a picture.

    Args:
        preprocessor: registered.
        image: RGB.
        resolution: shorter side that it works at, in pixels; less in pictures like lines.
        a: its first value, below 0 for its own.
        b: its second.
        check: called between the parts of the work; it may raise to stop.
    """
    if preprocessor.process is None:
        return image
    most = math.sqrt(_LONGEST / (image.width * image.height))
    factor = resolution * min(1 / min(image.size), most)
    size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
    if size != image.size:
        way = Image.Resampling.LANCZOS if factor > 1 else Image.Resampling.BOX
        image = image.resize(size, way)
    first, second = preprocessor.value(0, a), preprocessor.value(1, b)
    check()
    return Image.fromarray(preprocessor.process(np.asarray(image), first, second, check))


def working_resolution(unit: ControlUnit, size: tuple[int, int], width: int, height: int) -> int:
    """Return the shorter side that a unit's preprocessor works at, in pixels.

    Pixel perfect is the size that the picture has when it is fitted to the drawn one. Where nothing
    is asked it is 512, but not more than that: finer lines than are drawn would only blur.

    Args:
        unit: what is asked.
        size: (width, height) of its picture.
        width: of the picture to draw.
        height: of the picture to draw.
    """
    factors = (width / size[0], height / size[1])
    is_inside = RESIZE_MODES.index(unit.resize_mode) == RESIZE_AND_FILL
    perfect = max(round(min(size) * (min(factors) if is_inside else max(factors))), 1)
    if unit.pixel_perfect:
        return perfect
    if unit.processor_res > 0:
        return unit.processor_res
    return min(DEFAULT_RESOLUTION, perfect)
