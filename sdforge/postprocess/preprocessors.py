"""What ControlNets see of a picture: the preprocessors that need no network of their own.

Each is a function of an RGB array, two values, and a check that may stop it between its parts.
Names, defaults and ranges are those of A1111's extension; what it does with networks is not here
under those names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from sdforge.core.registry import Registry
from sdforge.postprocess.edges import Check, canny

Pixels = npt.NDArray[np.uint8]
Process = Callable[[Pixels, float, float, Check], Pixels]

# Rec. 709's share of each channel in lightness.
_LUMA = (0.2126, 0.7152, 0.0722)
_COLOURS = np.arange(256) / 255
# Light of each level of sRGB.
_LINEAR = np.where(_COLOURS <= 0.04045, _COLOURS / 12.92, ((_COLOURS + 0.055) / 1.055) ** 2.4)
_SHUFFLE_SEED = 0
_SHUFFLE_CELL = 256


@dataclass(frozen=True, kw_only=True)
class Slider:
    """A value of a preprocessor, as pages show it."""

    name: str
    least: float
    most: float
    default: float
    step: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Preprocessor:
    """One of them.

    Attributes:
        name: as clients write it.
        process: the function; None where the picture stays as it is, at its own size.
        types: control types that list it.
        sliders: for `threshold_a` and `threshold_b`, in this order.
        paints_over: it marks what a mask covers as unknown, instead of acting there alone.
        is_clip: it is the CLIP encoder that IP-Adapters see with, and nothing for ControlNets.
        softens_hires: its thin lines would be drawn over: in a hires pass, outer layers count less.
    """

    name: str
    process: Process | None
    types: tuple[str, ...] = ()
    sliders: tuple[Slider, ...] = ()
    paints_over: bool = False
    is_clip: bool = False
    softens_hires: bool = False

    def value(self, number: int, asked: float) -> float:
        """Return a threshold: as asked within its limits, its default where it is below 0."""
        if number >= len(self.sliders):
            return asked
        slider = self.sliders[number]
        return slider.default if asked < 0 else min(max(asked, slider.least), slider.most)


def _same(picture: Pixels, a: float, b: float, check: Check) -> Pixels:
    return picture


def _canny(picture: Pixels, a: float, b: float, check: Check) -> Pixels:
    return _grey(canny(picture, a, b, check))


def _invert(picture: Pixels, a: float, b: float, check: Check) -> Pixels:
    return 255 - picture


def _blur(picture: Pixels, a: float, b: float, check: Check) -> Pixels:
    return _blurred(picture, a)


def _downsample(picture: Pixels, a: float, b: float, check: Check) -> Pixels:
    image = Image.fromarray(picture)
    size = (max(int(image.width / a), 1), max(int(image.height / a), 1))
    return np.asarray(image.resize(size, Image.Resampling.BOX))


def _threshold(picture: Pixels, a: float, b: float, check: Check) -> Pixels:
    return (picture > a) * np.uint8(255)


def _xdog(picture: Pixels, a: float, b: float, check: Check) -> Pixels:
    """Lines where a fine blur is darker than a coarse one (difference of Gaussians)."""
    fine = _blurred(picture, 0.5)
    check()
    coarse = _blurred(picture, 5.0)
    check()
    darker = np.zeros(picture.shape[:2], np.int16)
    for channel in range(3):
        np.maximum(darker, coarse[:, :, channel].astype(np.int16) - fine[:, :, channel], out=darker)
    return _grey((2 * darker > a) * np.uint8(255))


def _soft_edges(picture: Pixels, a: float, b: float, check: Check) -> Pixels:
    """Slopes of the blurred picture, their steepest white."""
    blurred = _blurred(picture, a)
    # Lengths are compared by their squares, which are exact.
    squares = np.zeros(picture.shape[:2], np.float32)
    for channel in range(3):
        check()
        down, across = np.gradient(blurred[:, :, channel].astype(np.float32))
        np.maximum(squares, down * down + across * across, out=squares)
    slopes = np.sqrt(squares)
    return _grey((slopes * (255 / max(float(slopes.max()), 1.0))).astype(np.uint8))


def _lightness(picture: Pixels, a: float, b: float, check: Check) -> Pixels:
    """CIE L* from 0 to 255, raised to a power."""
    luminance = np.zeros(picture.shape[:2])
    for channel, share in enumerate(_LUMA):
        check()
        luminance += (_LINEAR * share)[picture[:, :, channel]]
    cubic = np.where(luminance > 0.008856, 1.16 * np.cbrt(luminance) - 0.16, 9.033 * luminance)
    return _grey((cubic.clip(0, 1) ** a * 255).round().astype(np.uint8))


def _intensity(picture: Pixels, a: float, b: float, check: Check) -> Pixels:
    """The strongest channel, raised to a power."""
    levels = ((np.arange(256) / 255) ** a * 255).round().astype(np.uint8)
    return _grey(levels[picture.max(axis=2)])


def _shuffle(picture: Pixels, a: float, b: float, check: Check) -> Pixels:
    """Carry each place's colour elsewhere along a smooth random field; the same one every time."""
    height, width = picture.shape[:2]
    random = np.random.default_rng(_SHUFFLE_SEED)
    cells = (max(width // _SHUFFLE_CELL, 1) + 3, max(height // _SHUFFLE_CELL, 1) + 3)
    places = []
    for side in (height, width):
        field = Image.fromarray(random.random(cells[::-1], dtype=np.float32))
        smooth = np.asarray(field.resize((width, height), Image.Resampling.BICUBIC))
        low, high = float(smooth.min()), float(smooth.max())
        places.append(((smooth - low) / max(high - low, 1e-6) * (side - 1)).astype(np.intp))
    carried: Pixels = picture[places[0], places[1]]
    return carried


def _blurred(picture: Pixels, radius: float) -> Pixels:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def _grey(values: Pixels) -> Pixels:
    return np.repeat(values[:, :, None], 3, axis=2)


def _table() -> Registry[Preprocessor]:
    table: Registry[Preprocessor] = Registry("preprocessor")

    def add(
        name: str,
        process: Process | None,
        *types: str,
        sliders: tuple[Slider, ...] = (),
        aliases: tuple[str, ...] = (),
        paints_over: bool = False,
        is_clip: bool = False,
        softens_hires: bool = False,
    ) -> None:
        row = Preprocessor(
            name=name,
            process=process,
            types=types,
            sliders=sliders,
            paints_over=paints_over,
            is_clip=is_clip,
            softens_hires=softens_hires,
        )
        table.add(name, row, aliases)

    def levels(name: str, default: float) -> Slider:
        return Slider(name=name, least=1, most=255, default=default)

    def gamma() -> tuple[Slider, ...]:
        return (Slider(name="Gamma Correction", least=0.1, most=2.0, default=1.0, step=0.001),)

    add("none", None, "All", aliases=("",))
    add(
        "canny", _canny, "Canny",
        sliders=(levels("Low Threshold", 100), levels("High Threshold", 200)),
        softens_hires=True,
    )  # fmt: skip
    add(
        "invert", _invert, "Canny", "Lineart", "Scribble", "MLSD",
        aliases=("invert (from white bg & black line)",),
    )  # fmt: skip
    add(
        "blur_gaussian", _blur, "Tile", aliases=("blur",),
        sliders=(Slider(name="Sigma", least=0.01, most=64, default=9, step=0.01),),
    )  # fmt: skip
    add(
        "tile_resample", _downsample, "Tile", aliases=("tile",),
        sliders=(Slider(name="Down Sampling Rate", least=1, most=8, default=1, step=0.01),),
    )  # fmt: skip
    add(
        "threshold", _threshold, "Scribble", aliases=("binary",),
        sliders=(Slider(name="Binarization Threshold", least=0, most=255, default=127),),
    )  # fmt: skip
    add("scribble_xdog", _xdog, "Scribble", sliders=(levels("XDoG Threshold", 32),))
    add(
        "softedge_sobel", _soft_edges, "SoftEdge",
        sliders=(Slider(name="Blur", least=0, most=16, default=1.5, step=0.1),),
    )  # fmt: skip
    add("shuffle", _shuffle, "Shuffle")
    add("inpaint_only", _same, "Inpaint", aliases=("inpaint",), paints_over=True)
    add(
        "CLIP-ViT-H (IPAdapter)", None, "IP-Adapter", is_clip=True,
        aliases=("ip-adapter_clip_h", "ip-adapter_clip_sd15", "ip-adapter_clip_sdxl_plus_vith",
                 "ip-adapter-auto"),
    )  # fmt: skip
    add(
        "CLIP-ViT-bigG (IPAdapter)", None, "IP-Adapter", is_clip=True,
        aliases=("ip-adapter_clip_g", "ip-adapter_clip_sdxl"),
    )  # fmt: skip
    add("recolor_luminance", _lightness, "Recolor", sliders=gamma())
    add("recolor_intensity", _intensity, "Recolor", sliders=gamma())
    return table


PREPROCESSORS = _table()
