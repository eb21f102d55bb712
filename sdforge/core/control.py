"""A ControlNet unit of a request: a picture, a network, and how the one steers the other.

Plain values, frozen and picklable. `api.translate_control` reads them from clients, `postprocess`
makes what the network sees, `pipeline.control` applies it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.core.inputs import InputImage

BALANCED = "Balanced"
PROMPT_FIRST = "My prompt is more important"
CONTROL_FIRST = "ControlNet is more important"
CONTROL_MODES = (BALANCED, PROMPT_FIRST, CONTROL_FIRST)
# In the order of `postprocess.resizing`'s numbers.
RESIZE_MODES = ("Just Resize", "Crop and Resize", "Resize and Fill")
BOTH_PASSES, LOW_RES_ONLY, HIGH_RES_ONLY = "Both", "Low res only", "High res only"
HIRES_OPTIONS = (BOTH_PASSES, LOW_RES_ONLY, HIGH_RES_ONLY)
# What union ControlNets tell apart, in the order of their numbers; six of them, or all eight.
UNION_TYPES = (
    "OpenPose", "Depth", "Soft Edge", "Hard Edge", "Normal Map", "Segmentation", "Tile", "Inpaint",
)  # fmt: skip
UNKNOWN_TYPE = "Unknown"
# Control types of the extension's page that stand for one of them.
_UNION_ALIASES = {
    "softedge": "Soft Edge", "scribble": "Soft Edge", "sketch": "Soft Edge",
    "hardedge": "Hard Edge", "canny": "Hard Edge", "lineart": "Hard Edge", "mlsd": "Hard Edge",
    "normalmap": "Normal Map", "blur": "Tile",
}  # fmt: skip
MOST_WEIGHT = 2.0
MOST_RESOLUTION = 2048
DEFAULT_RESOLUTION = 512
# How many units the page shows and clients may count on; requests may hold more.
UNIT_COUNT = 3
MOST_UNITS = 10
_IMAGES = ("image", "mask")


@dataclass(frozen=True, kw_only=True)
class ControlUnit:
    """One network and its picture.

    Attributes:
        model: name of the ControlNet file.
        module: registered name of the preprocessor.
        image: what it looks at; None for the first initial picture of img2img.
        mask: where it acts, or what is to be repainted where the preprocessor is about that.
        weight: what the network says is multiplied by it.
        guidance_start: share of the steps at which it begins to act.
        guidance_end: share after which it is silent.
        control_mode: one of `CONTROL_MODES`.
        resize_mode: one of `RESIZE_MODES`.
        hires_option: one of `HIRES_OPTIONS`.
        pixel_perfect: the preprocessor works at the size of the picture that is drawn.
        processor_res: shorter side that the preprocessor works at, in pixels; −1 for its own.
        threshold_a: first value of the preprocessor; −1 for its own.
        threshold_b: second value.
        union_control_type: what the picture shows, for a union ControlNet: one of `UNION_TYPES` or
            a control type; otherwise what the preprocessor makes.
        save_detected_map: whether answers show what the network saw.
    """

    model: str
    module: str = "none"
    image: InputImage | None = None
    mask: InputImage | None = None
    weight: float = 1.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    control_mode: str = BALANCED
    resize_mode: str = RESIZE_MODES[1]
    hires_option: str = BOTH_PASSES
    pixel_perfect: bool = False
    processor_res: int = -1
    threshold_a: float = -1.0
    threshold_b: float = -1.0
    union_control_type: str = UNKNOWN_TYPE
    save_detected_map: bool = True

    def acts_in(self, pass_name: str) -> bool:
        """Say whether it acts in a pass ("base" or "hires")."""
        left_out = HIGH_RES_ONLY if pass_name == "base" else LOW_RES_ONLY
        return self.hires_option != left_out

    def acts_at(self, fraction: float) -> bool:
        """Say whether it acts when that share of the steps is done; both ends count."""
        return self.guidance_start <= fraction <= self.guidance_end

    def infotext(self) -> str:
        """Return the values as pictures tell them, in Forge's words."""
        pairs = {
            "Module": self.module,
            "Model": self.model,
            "Weight": self.weight,
            "Resize Mode": self.resize_mode,
            "Processor Res": self.processor_res,
            "Threshold A": self.threshold_a,
            "Threshold B": self.threshold_b,
            "Guidance Start": self.guidance_start,
            "Guidance End": self.guidance_end,
            "Pixel Perfect": self.pixel_perfect,
            "Control Mode": self.control_mode,
            "Hires-Fix Option": self.hires_option,
        }
        kind = union_type(self.union_control_type)
        if kind is not None:
            pairs["Union Control Type"] = UNION_TYPES[kind]
        return ", ".join(f"{key}: {value}" for key, value in pairs.items())

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; `from_json` is the inverse."""
        values = {row.name: getattr(self, row.name) for row in fields(self)}
        for name in _IMAGES:
            values[name] = values[name].to_json() if values[name] else None
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ControlUnit:
        """Build a unit from `to_json`'s result; keys of other versions are left out."""
        known = {row.name for row in fields(cls)}
        kept = {key: value for key, value in values.items() if key in known}
        images = {name: InputImage.from_json(kept[name]) for name in _IMAGES if kept.get(name)}
        return cls(**(kept | images))


def union_type(name: str) -> int | None:
    """Return the number of a union ControlNet's type, by its name or a control type's."""
    folded = "".join(name.casefold().split())
    known = {"".join(one.casefold().split()): one for one in UNION_TYPES}
    found = known.get(folded) or _UNION_ALIASES.get(folded)
    return None if found is None else UNION_TYPES.index(found)


def validate_units(units: tuple[ControlUnit, ...]) -> None:
    """Raise `InvalidRequest`, naming the field, unless every unit's values can be used."""
    if len(units) > MOST_UNITS:
        raise InvalidRequest("controlnet", f"{len(units)} units", f"at most {MOST_UNITS}")
    for number, unit in enumerate(units):
        _check(number, "weight", unit.weight, 0.0, MOST_WEIGHT)
        _check(number, "guidance_start", unit.guidance_start, 0.0, 1.0)
        _check(number, "guidance_end", unit.guidance_end, 0.0, 1.0)
        _check(number, "processor_res", unit.processor_res, -1, MOST_RESOLUTION)


def _check(number: int, name: str, value: float, least: float, most: float) -> None:
    # Written so that NaN fails too.
    if not least <= value <= most:
        raise InvalidRequest(f"controlnet[{number}].{name}", value, f"{least:g} to {most:g}")
