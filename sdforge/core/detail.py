"""A detail of finished pictures: what a detector shall find there, and how it is drawn again.

Plain data: extensions say which details a job has (`Extension.details`), `pipeline.detailing`
finds and draws them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from sdforge.core.inputs import InputImage
from sdforge.core.request import DEFAULT_SIZE, GenerationRequest

if TYPE_CHECKING:
    from PIL import Image

MERGES = ("None", "Merge", "Merge and Invert")
BY_AREA, BY_CONFIDENCE = "Area", "Confidence"
ORDERS = (
    "None", "Position (left to right)", "Position (center to edge)", "Area (large to small)",
)  # fmt: skip

_SEPARATOR, _SKIP, _PROMPT = re.compile(r"\s*\[SEP\]\s*"), "[SKIP]", "[PROMPT]"
_ORIGINAL_CONTENT = 1
_MULTIPLE = 8
# A mask is drawn once, in one pass, from what is there.
_NOTHING_ELSE: Mapping[str, Any] = {
    "batch_count": 1, "batch_size": 1, "refiner": "", "refiner_switch_at": None, "hires": False,
    "resize_mode": 0, "mask_round": True, "masked_content": _ORIGINAL_CONTENT,
    "only_masked": True, "mask_invert": False, "first_picture": None, "references": (),
    "control": (),
}  # fmt: skip

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Detection:
    """Something that a detector found.

    Attributes:
        box: left, top, right, bottom in pixels.
        score: how sure the detector is, 0 to 1.
        mask: its shape (L, 0 or 255), as large as the picture; None where only the box is known.
    """

    box: tuple[float, float, float, float]
    score: float
    mask: Image.Image | None = None

    @property
    def area(self) -> float:
        """Of its box, in pixels."""
        left, top, right, bottom = self.box
        return max(right - left, 0.0) * max(bottom - top, 0.0)


@dataclass(frozen=True, kw_only=True)
class Detail:
    """What to find and how to draw it again. What is None or "" is as in the job's request.

    Attributes:
        detector: name of a detector.
        prompt: see `texts`.
        negative_prompt: see `texts`.
        confidence: a detector's least, 0 to 1.
        most: so many detections at most, 0 for all.
        most_by: which then stay, the largest or the surest.
        least_share: a box that covers less of the picture is left, 0 to 1.
        most_share: so is one that covers more.
        dilate: pixels by which masks grow, or shrink if negative.
        right: pixels that masks are moved to the right.
        up: pixels that they are moved up.
        merge: all masks count as one, or what is outside of them all.
        mask_blur: in pixels.
        strength: denoising strength.
        padding: pixels around a mask that are drawn with it; None draws the whole picture.
        size: (width, height) to draw at.
        steps: of sampling.
        cfg_scale: strength of guidance.
        checkpoint: that draws.
        vae: that draws.
        sampler: name.
        schedule: name.
        noise_multiplier: of the first noise.
        clip_skip: layers of CLIP that count from the end.
        restore_faces: whether faces are restored in what was drawn.
    """

    detector: str
    prompt: str = ""
    negative_prompt: str = ""
    confidence: float = 0.3
    most: int = 0
    most_by: str = BY_AREA
    least_share: float = 0.0
    most_share: float = 1.0
    dilate: int = 4
    right: int = 0
    up: int = 0
    merge: str = MERGES[0]
    mask_blur: int = 4
    strength: float = 0.4
    padding: int | None = 32
    size: tuple[int, int] | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    checkpoint: str = ""
    vae: str = ""
    sampler: str = ""
    schedule: str = ""
    noise_multiplier: float | None = None
    clip_skip: int | None = None
    restore_faces: bool = False

    def texts(self, number: int, prompt: str, negative: str) -> tuple[str, str] | None:
        """Return the prompts of mask `number` in a picture of two prompts; None to leave it.

        "[SEP]" stands between the prompts of several masks, the last of which counts for all that
        follow. "[SKIP]" leaves a mask. An empty one is the picture's own, for which "[PROMPT]"
        stands in another (ADetailer).
        """
        own = _of_mask(self.prompt, number, prompt)
        if own.strip() == _SKIP:
            return None
        return own, _of_mask(self.negative_prompt, number, negative)

    def overrides(self) -> dict[str, object]:
        """Return the settings that are others while it is drawn."""
        found: dict[str, object] = {}
        if self.clip_skip is not None:
            found["CLIP_stop_at_last_layers"] = self.clip_skip
        if self.vae:
            found["sd_vae"] = self.vae
        return found

    def drawn_size(self, request: GenerationRequest, picture: tuple[int, int]) -> tuple[int, int]:
        """Return (width, height) that a mask is drawn at in a picture of a resolved request."""
        if self.size is not None:
            return self.size
        if self.padding is None:
            width, height = (max(side - side % _MULTIPLE, _MULTIPLE) for side in picture)
            return width, height
        return request.width or DEFAULT_SIZE, request.height or DEFAULT_SIZE

    def work(self, request: GenerationRequest) -> float:
        """Return the steps × pixels that one mask takes, for predictions."""
        width, height = self.drawn_size(request, request.final_size)
        return (self.steps or request.steps) * self.strength * width * height


def detail_request(
    detail: Detail,
    request: GenerationRequest,
    *,
    index: int,
    number: int,
    texts: tuple[str, str],
    picture: InputImage,
    mask: InputImage,
    sampler: tuple[str, str],
    checkpoint: str,
    extensions: Iterable[str] = (),
) -> GenerationRequest:
    """Return the resolved request that draws one mask again.

    Args:
        detail: how.
        request: the job's, resolved.
        index: of the picture in its job.
        number: of the mask in the picture; each has the seed after the last one's.
        texts: prompt and negative prompt.
        picture: as it is now.
        mask: of the same size.
        sampler: registered names of sampler and schedule.
        checkpoint: title.
        extensions: names of those of the job that act here too.
    """
    width, height = detail.drawn_size(request, (picture.width, picture.height))
    kept = {name: request.extensions[name] for name in extensions if name in request.extensions}
    return replace(
        request,
        **_NOTHING_ELSE,
        prompt=texts[0],
        negative_prompt=texts[1],
        prompts=(texts[0],),
        negative_prompts=(texts[1],),
        steps=detail.steps or request.steps,
        sampler=sampler[0],
        schedule=sampler[1],
        width=width,
        height=height,
        cfg_scale=_unless_none(detail.cfg_scale, request.cfg_scale),
        seed=(request.image_seed(index) + number) % 2**32,
        subseed=(request.image_subseed(index) + number) % 2**32,
        denoising_strength=detail.strength,
        restore_faces=detail.restore_faces,
        initial_noise_multiplier=_unless_none(
            detail.noise_multiplier, request.initial_noise_multiplier
        ),
        mask_blur_x=detail.mask_blur,
        mask_blur_y=detail.mask_blur,
        # With room for all of the picture around a mask, the part that is drawn is the picture.
        only_masked_padding=_unless_none(detail.padding, max(picture.width, picture.height)),
        init_images=(picture,),
        mask=mask,
        checkpoint=checkpoint,
        extensions=kept,
    )


def planned_steps(detail: Detail, steps: int, *, all_steps: bool) -> int:
    """Return the steps that one mask takes; with `all_steps` strength leaves none out (A1111)."""
    asked = detail.steps or steps
    return asked if all_steps else min(math.floor(detail.strength * asked) + 1, asked)


def _of_mask(texts: str, number: int, own: str) -> str:
    parts = _SEPARATOR.split(texts)
    text = parts[min(number, len(parts) - 1)]
    return text.replace(_PROMPT, f" {own} ") if text.strip() else own


def _unless_none(value: _Value | None, other: _Value) -> _Value:
    return other if value is None else value
