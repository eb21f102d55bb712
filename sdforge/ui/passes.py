"""What the form means for passes and pictures: hires fix, the refiner, img2img, inpainting.

Beside the rows of `core.fields` the form has a few values of its own: whether the refiner is on,
which kind of img2img it is, whether its size is given or a factor. Plain values, no Gradio.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sdforge.core.control import ControlUnit
from sdforge.core.errors import InvalidRequest
from sdforge.core.fields import FIELD
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest
from sdforge.engine.picture_batch import PictureBatch
from sdforge.output.infotext import Infotext, parse_infotext, request_from_infotext
from sdforge.output.infotext_modules import SAME_CHOICES, hires_modules
from sdforge.ui import batch
from sdforge.ui.control import read_batches, read_units

TXT2IMG = "txt2img"
IMG2IMG = "img2img"
TABS = (TXT2IMG, IMG2IMG)

REFINER_ON = "refiner_on"
# The second pass's VAE and text encoders: a list of names, or the entry that says the first's.
HIRES_MODULES = "hires_modules"
# Which picture and mask count, and how the size is given.
MODE = "mode"
SIZING = "sizing"
SCALE = "scale"
MODE_PLAIN, MODE_PAINTED, MODE_SENT = "img2img", "inpaint", "upload"
MODE_SKETCH, MODE_PAINTED_COLOURS, MODE_BATCH = "sketch", "inpaint_sketch", "batch"
# How much of the picture shows through what Inpaint sketch paints, 0 to 100.
MASK_ALPHA = "mask_alpha"
SIZE_TO, SIZE_BY = "to", "by"
HIRES_MODULES_LABEL = "Hires VAE / Text Encoder"
EXTRAS: Mapping[str, tuple[str, ...]] = {
    TXT2IMG: (REFINER_ON, HIRES_MODULES),
    IMG2IMG: (REFINER_ON, MODE, SIZING, SCALE, MASK_ALPHA, *batch.NAMES),
}
MIN_SCALE, MAX_SCALE, SCALE_STEP = 0.05, 4.0, 0.05
MODES = (
    ("img2img", MODE_PLAIN), ("Sketch", MODE_SKETCH), ("Inpaint", MODE_PAINTED),
    ("Inpaint sketch", MODE_PAINTED_COLOURS), ("Inpaint upload", MODE_SENT), ("Batch", MODE_BATCH),
)  # fmt: skip
# Those where a mask counts; a batch has masks where their folder is named.
_MASKED = (MODE_PAINTED, MODE_PAINTED_COLOURS, MODE_SENT)
_NUMBERS: Mapping[str, tuple[str, float, float]] = {
    SCALE: ("Scale", MIN_SCALE, MAX_SCALE),
    MASK_ALPHA: ("Mask transparency", 0, 100),
}
SIZINGS = (("Resize to", SIZE_TO), ("Resize by", SIZE_BY))

_STRENGTH: Mapping[str, float] = {TXT2IMG: 0.7, IMG2IMG: 0.75}
_SWITCH_AT = 0.8
_MASK_NAMES = ("mask_blur_x", "mask_invert", "masked_content", "only_masked", "only_masked_padding")
_HIRES_NAMES = tuple(name for name in FIELD if name.startswith("hires"))
_PROMPTS = ("prompt", "negative_prompt")
# What a picture is enlarged with as it was drawn; size, passes and masks are another matter.
_OF_DRAWING = (
    "steps", "sampler", "schedule", "cfg_scale", "distilled_cfg_scale", "seed", "subseed",
    "subseed_strength", "seed_resize_from_w", "seed_resize_from_h", "tiling",
)  # fmt: skip
# Rows whose values are names of checkpoints; the page lists them when it is filled.
CHECKPOINT_NAMES = ("refiner", "hires_checkpoint")


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The stored pictures that come with a form; `seed` belongs to `first`, which is enlarged.

    With an `infotext` of its own, `first` is drawn with what that says instead of the form's
    values, but for those of hires fix.

    `references` are what the model refers to beside `init`. `paint` are colours over `init`,
    `batch` the pictures of a batch with the names of their files, `control` the ControlNet units
    that are on, and `control_batches` what some of these look at in turn, by their places.
    """

    init: InputImage | None = None
    mask: InputImage | None = None
    paint: InputImage | None = None
    batch: tuple[tuple[InputImage, str], ...] = ()
    references: tuple[InputImage, ...] = ()
    first: InputImage | None = None
    seed: int | None = None
    infotext: str = ""
    control: tuple[ControlUnit, ...] = ()
    control_batches: Mapping[int, PictureBatch] = field(default_factory=dict)

    @classmethod
    def from_text(cls, text: str) -> Pictures:
        """Read what the page's scripts send: JSON, of the pictures that `/api/v1/inputs` stored.

        Raises:
            InvalidRequest: it is something else.
        """
        try:
            sent = json.loads(text or "{}")
            images = {
                name: InputImage.from_json(sent[name])
                for name in ("init", "mask", "paint", "first")
                if sent.get(name)
            }
            several = tuple(
                (InputImage.from_json(one), str(one.get("name") or ""))
                for one in sent.get("batch") or ()
            )
            seed = sent.get("seed")
            return cls(
                **images,
                batch=several,
                references=tuple(map(InputImage.from_json, sent.get("references") or ())),
                seed=None if seed is None else int(seed),
                infotext=str(sent.get("infotext") or ""),
                control=read_units(sent.get("control")),
                control_batches=read_batches(sent.get("control")),
            )
        except InvalidRequest:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidRequest("Pictures", text[:80], "what the page sends") from error


def default_values(tab: str) -> dict[str, Any]:
    """Return where the form of a new page differs from the rows' defaults, and its own values."""
    values: dict[str, Any] = {
        "denoising_strength": _STRENGTH[tab],
        "refiner_switch_at": _SWITCH_AT,
        "tiling": False,
        "restore_faces": False,
        REFINER_ON: False,
    }
    if tab == TXT2IMG:
        values |= {"hires_cfg_scale": 0.0, "hires_distilled_cfg_scale": 0.0}
        return values | {HIRES_MODULES: [SAME_CHOICES]}
    own = {MODE: MODE_PLAIN, SIZING: SIZE_TO, SCALE: 1.0, MASK_ALPHA: 0.0, "image_cfg_scale": 1.5}
    return values | own | dict(batch.DEFAULTS)


def read_extra(name: str, value: Any) -> Any:
    """Return a value of the form that is no row of the table.

    Raises:
        InvalidRequest: it cannot be used.
    """
    if name == REFINER_ON:
        return bool(value)
    if name == HIRES_MODULES:
        modules = hires_modules(value, HIRES_MODULES_LABEL)
        return [SAME_CHOICES] if modules is None else list(modules)
    if name in batch.NAMES:
        return batch.read_value(name, value)
    if name in _NUMBERS:
        label, least, most = _NUMBERS[name]
        is_number = isinstance(value, (int, float)) and math.isfinite(value)
        if not is_number or not least <= value <= most:
            raise InvalidRequest(label, value, f"a number from {least:g} to {most:g}")
        return float(value)
    known = [kept for _, kept in (MODES if name == MODE else SIZINGS)]
    if value not in known:
        raise InvalidRequest(name, value, f"one of {', '.join(known)}")
    return value


def switched_off(values: Mapping[str, Any], tab: str) -> dict[str, Any]:
    """Return the rows that do not count, with the values that say so; their widgets may be bad."""
    off: dict[str, Any] = {}
    if not values.get(REFINER_ON):
        off |= {"refiner": "", "refiner_switch_at": None}
    # Left unticked, the setting decides.
    off |= {name: None for name in ("tiling", "restore_faces") if not values.get(name)}
    if tab == TXT2IMG and not values.get("hires"):
        off |= {name: FIELD[name].default for name in (*_HIRES_NAMES, "denoising_strength")}
    if tab == IMG2IMG and values.get(MODE, MODE_PLAIN) in (MODE_PLAIN, MODE_SKETCH):
        off |= {name: FIELD[name].default for name in _MASK_NAMES}
    if tab == IMG2IMG and values.get(SIZING) == SIZE_BY:
        off |= {"width": None, "height": None}
    return off


def request_parts(
    values: Mapping[str, Any], chosen: Mapping[str, Any], tab: str, pictures: Pictures
) -> dict[str, Any]:
    """Return what the pictures and the form's own values make of a request.

    Args:
        values: the form's.
        chosen: the request's parameters so far.
        tab: whose form it is.
        pictures: what was sent with it.

    Raises:
        InvalidRequest: a picture is missing, or a value cannot be used.
    """
    beside: dict[str, Any] = {"control": pictures.control, "references": pictures.references}
    if tab == IMG2IMG:
        return _img2img_parts(values, chosen, pictures) | beside
    parts = beside
    if chosen["hires"]:
        # 0 is "as in the first pass".
        for name in ("hires_cfg_scale", "hires_distilled_cfg_scale"):
            parts[name] = chosen[name] or None
        parts[HIRES_MODULES] = hires_modules(values.get(HIRES_MODULES), HIRES_MODULES_LABEL)
    if pictures.first is not None:
        multiple = FIELD["width"].multiple_of or 1
        parts |= {
            "first_picture": pictures.first,
            "width": max(multiple, pictures.first.width // multiple * multiple),
            "height": max(multiple, pictures.first.height // multiple * multiple),
            "batch_count": 1,
            "batch_size": 1,
        }
        if pictures.seed is not None:
            parts["seed"] = pictures.seed
        parts |= _own_parameters(pictures.infotext)
    return parts


def _own_parameters(text: str) -> dict[str, Any]:
    """Return what a picture's infotext says of how it was drawn, its passes and size aside."""
    infotext = parse_infotext(text)
    if not infotext.fields:
        return {}
    request = request_from_infotext(infotext)
    said = {name for name in _OF_DRAWING if FIELD[name].infotext in infotext.fields}
    return {name: getattr(request, name) for name in (*_PROMPTS, *said)}


def _img2img_parts(
    values: Mapping[str, Any], chosen: Mapping[str, Any], pictures: Pictures
) -> dict[str, Any]:
    if pictures.init is None:
        allowed = "a picture to start from: choose one, drop one, or send one of the results"
        raise InvalidRequest("Picture", "none", allowed)
    parts: dict[str, Any] = {
        "init_images": (pictures.init,),
        "mask_blur_y": chosen["mask_blur_x"],
    }
    mode = read_extra(MODE, values.get(MODE, MODE_PLAIN))
    if mode in _MASKED and pictures.mask is None:
        how = "uploaded beside it" if mode == MODE_SENT else "painted over the picture"
        raise InvalidRequest("Mask", "none", f"a mask {how}, or no inpainting")
    if mode in _MASKED or mode == MODE_BATCH:
        parts["mask"] = pictures.mask
    if read_extra(SIZING, values.get(SIZING, SIZE_TO)) == SIZE_BY:
        scale = read_extra(SCALE, values.get(SCALE))
        parts |= scaled_size(pictures.init, scale)
    return parts


def scaled_size(picture: InputImage, scale: float) -> dict[str, int]:
    """Return the width and height in pixels of a picture times a factor, as models need them."""
    multiple = FIELD["width"].multiple_of or 1

    def scaled(length: int) -> int:
        return max(multiple * 2, int(length * scale) // multiple * multiple)

    return {"width": scaled(picture.width), "height": scaled(picture.height)}


def pasted_values(infotext: Infotext, request: GenerationRequest, tab: str) -> dict[str, Any]:
    """Return what a picture's text says of switches: hires fix and the refiner, on or off."""
    on = "Refiner" in infotext.fields and bool(request.refiner)
    values: dict[str, Any] = {REFINER_ON: on}
    if tab == TXT2IMG:
        values["hires"] = request.hires
        if request.hires:
            values |= {name: getattr(request, name) for name in _HIRES_NAMES}
            for name in ("hires_cfg_scale", "hires_distilled_cfg_scale"):
                values[name] = getattr(request, name) or 0.0
            modules = request.hires_modules
            values[HIRES_MODULES] = [SAME_CHOICES] if modules is None else list(modules)
        if request.hires and request.denoising_strength is None:
            values["denoising_strength"] = _STRENGTH[tab]
    return values
