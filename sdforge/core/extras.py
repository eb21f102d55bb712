"""What extras do to pictures: enlarged by one upscaler, or by two that are mixed; faces restored.

A request with `extras` draws nothing: its `init_images` are what is processed, one after another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from sdforge.core.errors import InvalidRequest

BY_FACTOR, TO_SIZE = 0, 1
NO_UPSCALER = "None"
# One side alone; areas are bounded by the setting `max_pixels_per_image`.
_LONGEST_SIDE = 65536
# Products of decimal factors and whole sides come out a little too small.
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Extras:
    """One way to process pictures, with A1111's meanings.

    Attributes:
        resize_mode: `BY_FACTOR` or `TO_SIZE`.
        factor: of both sides.
        max_side: the longer side of a result, in pixels, where a factor would make it longer; 0 for
            no limit.
        width: of the size to reach, in pixels.
        height: of that.
        crop: whether the result has exactly that size, or covers it in its own proportions.
        upscaler: name of what enlarges; `NO_UPSCALER` leaves pictures as they are.
        second_upscaler: name of what is mixed in; `NO_UPSCALER` or "" for nothing.
        second_visibility: its share, 0 to 1.
        gfpgan_visibility: share of the picture with faces restored by GFPGAN, 0 to 1.
        codeformer_visibility: the same by CodeFormer, after that.
        codeformer_weight: CodeFormer's weight: 0 restores most, 1 least.
        names: of the pictures' files without suffix, for the results'; () for numbers.
        folder: where results go; "" for the setting's folder.
    """

    resize_mode: int = BY_FACTOR
    factor: float = 2.0
    max_side: int = 0
    width: int = 512
    height: int = 512
    crop: bool = True
    upscaler: str = NO_UPSCALER
    second_upscaler: str = NO_UPSCALER
    second_visibility: float = 0.0
    gfpgan_visibility: float = 0.0
    codeformer_visibility: float = 0.0
    codeformer_weight: float = 0.0
    names: tuple[str, ...] = ()
    folder: str = ""

    @property
    def enlarges(self) -> bool:
        """Whether there is an upscaler at all."""
        return self.upscaler not in ("", NO_UPSCALER)

    @property
    def mixes(self) -> bool:
        """Whether the second upscaler counts."""
        return (
            self.enlarges
            and self.second_upscaler not in ("", NO_UPSCALER)
            and self.second_visibility > 0
        )

    @property
    def upscalers(self) -> tuple[str, ...]:
        """What enlarges, in order."""
        second = (self.second_upscaler,) if self.mixes else ()
        return (self.upscaler, *second) if self.enlarges else ()

    @property
    def restorers(self) -> tuple[tuple[str, float], ...]:
        """What restores faces, in A1111's order, with the shares."""
        both = (("GFPGAN", self.gfpgan_visibility), ("CodeFormer", self.codeformer_visibility))
        return tuple((name, share) for name, share in both if share > 0)

    def is_limited(self, width: int, height: int) -> bool:
        """Whether `max_side` counts for a picture of this size."""
        longest = max(width, height) * self.factor
        return self.resize_mode == BY_FACTOR and 0 < self.max_side < longest

    def enlarged_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the size that a picture of (width, height) is brought to, before it is cropped."""
        if self.resize_mode == TO_SIZE:
            factor = max(self.width / width, self.height / height)
            return max(_times(width, factor), self.width), max(_times(height, factor), self.height)
        factor = self.factor
        if self.is_limited(width, height):
            factor = self.max_side / max(width, height)
        return _times(width, factor), _times(height, factor)

    def result_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the size of what comes out of a picture of (width, height)."""
        if not self.enlarges:
            return width, height
        if self.resize_mode == TO_SIZE and self.crop:
            return self.width, self.height
        return self.enlarged_size(width, height)

    def check(self) -> None:
        """Raise unless every value can be used; errors name the fields as A1111's API does.

        Raises:
            InvalidRequest: a value is out of its limits.
        """
        if self.resize_mode not in (BY_FACTOR, TO_SIZE):
            raise InvalidRequest("resize_mode", self.resize_mode, "0 (by factor) or 1 (to a size)")
        if not (math.isfinite(self.factor) and 0 < self.factor <= _LONGEST_SIDE):
            raise InvalidRequest("upscaling_resize", self.factor, "a number above 0")
        for name, side, least in (
            ("upscaling_resize_w", self.width, 1),
            ("upscaling_resize_h", self.height, 1),
            ("max_side_length", self.max_side, 0),
        ):
            if not least <= side <= _LONGEST_SIDE:
                raise InvalidRequest(name, side, f"a whole number from {least} to {_LONGEST_SIDE}")
        for name, share in (
            ("extras_upscaler_2_visibility", self.second_visibility),
            ("gfpgan_visibility", self.gfpgan_visibility),
            ("codeformer_visibility", self.codeformer_visibility),
            ("codeformer_weight", self.codeformer_weight),
        ):
            if not 0 <= share <= 1:
                raise InvalidRequest(name, share, "a number from 0 to 1")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; `from_json` is the inverse."""
        return asdict(self) | {"names": list(self.names)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Extras:
        """Build it from `to_json`'s result; keys of other versions are left out."""
        known = {row.name for row in fields(cls)}
        kept = {key: value for key, value in values.items() if key in known}
        return cls(**kept | {"names": tuple(kept.get("names", ()))})


def _times(side: int, factor: float) -> int:
    return max(int(side * factor + _ROUNDING), 1)
