"""What a request draws with, as data for estimates: one entry for each checkpoint and size.

The pipeline's own passes need torch; who asks before a job runs may have none. Rules for refiners
are those of `pipeline.passes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdforge.core.detail import Detail
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import Settings
from sdforge.memory.estimate import Shape

DEFAULT_SIDE = 512


@dataclass(frozen=True)
class Drawn:
    """A part of a job that has one checkpoint.

    Attributes:
        name: "base", "hires", "refiner" or "detail".
        checkpoint: title.
        modules: files that bring its VAE and text encoders; None for those of the settings.
        shape: of the pictures.
    """

    name: str
    checkpoint: str
    modules: tuple[str, ...] | None
    shape: Shape


def drawn(
    request: GenerationRequest, settings: Settings, details: Sequence[Detail] = ()
) -> tuple[Drawn, ...]:
    """Return what a resolved request draws with, one of each kind, its largest picture last.

    A first pass that has the second one's checkpoint is left out: it is no larger. So is a second
    detail of the same checkpoint and size.
    """
    width, height = request.width or DEFAULT_SIDE, request.height or DEFAULT_SIDE
    final = _shape(request, *(request.hires_size if request.hires else request.final_size))
    first = _shape(request, width, height) if request.hires else final
    refined = settings.hires_fix_refiner_pass
    # What is "enlarged" has its first pass behind it.
    is_enlarged = request.first_picture is not None
    hires = request.hires_checkpoint or request.checkpoint
    is_same = hires == request.checkpoint and request.hires_modules is None
    found = []
    if not request.hires or not (is_same or is_enlarged):
        found.append(Drawn("base", request.checkpoint, None, first))
    if request.refiner:
        in_first = not request.hires or (refined != "second pass" and not is_enlarged)
        in_second = request.hires and refined != "first pass"
        if in_second and request.refiner != hires:
            found.append(Drawn("refiner", request.refiner, request.hires_modules, final))
        elif in_first and request.refiner != request.checkpoint:
            found.append(Drawn("refiner", request.refiner, None, first))
    if request.hires:
        found.append(Drawn("hires", hires, request.hires_modules, final))
    again = [_again(detail, request) for detail in details]
    return (*dict.fromkeys(again), *found)


def _again(detail: Detail, request: GenerationRequest) -> Drawn:
    """Return what a detail is drawn with: one at a time, from a picture."""
    size = detail.drawn_size(request, request.final_size)
    scale = request.cfg_scale if detail.cfg_scale is None else detail.cfg_scale
    shape = Shape(width=size[0], height=size[1], batch=1, guided=scale != 1, from_image=True)
    return Drawn("detail", detail.checkpoint or request.checkpoint, None, shape)


def _shape(request: GenerationRequest, width: int, height: int) -> Shape:
    return Shape(
        width=width,
        height=height,
        batch=request.batch_size,
        guided=request.cfg_scale != 1,
        from_image=bool(request.init_images or request.hires or request.references),
    )
