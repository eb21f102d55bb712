"""Details of finished pictures: found by a detector, each drawn again by a run of its own.

Such a run is img2img with a mask of which only the part around it is drawn, the same that users
inpaint by; so leases, previews, cancelling and the way back onto the picture are those. Everything
outside of the masks stays as it was, bit by bit.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from sdforge.core.detail import Detail, detail_request, planned_steps
from sdforge.core.errors import Cancelled, MissingModel
from sdforge.core.events import Event, Notice, StageStarted, StepDone
from sdforge.core.extension import Active
from sdforge.core.inputs import InputImage
from sdforge.postprocess.regions import chosen, masks_of, shown
from sdforge.sampling.names import SAMPLER_TABLE, resolve_sampler

if TYPE_CHECKING:
    from sdforge.core.request import GenerationRequest
    from sdforge.core.result import ImageResult
    from sdforge.pipeline.context import RunContext

STAGE = "detect"
# Ends the names of pictures that are saved beside: as they were before, and what was found.
BEFORE, FOUND = "-ad-before", "-ad-preview"

Pixels = npt.NDArray[np.uint8]
Draw = Callable[["RunContext"], "Iterator[ImageResult]"]


def details_of(active: Sequence[Active]) -> tuple[Detail, ...]:
    """Return the details that a job's extensions ask for."""
    return tuple(detail for one in active for detail in one.extension.details(one.values))


def draws_first(active: Sequence[Active], request: GenerationRequest) -> bool:
    """Tell whether a request draws before its details, or they are of the given pictures."""
    if not request.init_images:
        return True
    return all(one.extension.draws(one.values) for one in active)


def resolved_sampler(detail: Detail, request: GenerationRequest) -> tuple[str, str]:
    """Return the registered names of the sampler and the schedule that a detail is drawn with.

    Raises:
        UnknownName: there is none of that name.
    """
    if not detail.sampler:
        return resolve_sampler(request.sampler, detail.schedule or request.schedule)
    # A merged name ("DPM++ 2M Karras") brings its own.
    is_merged = SAMPLER_TABLE.canonical(detail.sampler) is None
    return resolve_sampler(
        detail.sampler, detail.schedule or ("" if is_merged else request.schedule)
    )


class Detailing:
    """The details of one job's pictures, and how far it is over all that is drawn."""

    def __init__(self, context: RunContext, draw: Draw) -> None:
        """Take the job's run and what draws the pictures of another."""
        self._context = context
        self._draw = draw
        self._details = details_of(context.extensions)
        self._steps = [
            planned_steps(one, context.request.steps, all_steps=context.settings.img2img_fix_steps)
            for one in self._details
        ]
        # Steps of the batch that are done, and those that are expected after the ones that run.
        self._done = 0
        self._left = 0
        self._batch = 0

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._details)

    def drawing(self) -> RunContext:
        """Return the context of what is drawn before; its steps count as a part of all."""
        if not self:
            return self._context
        return replace(self._context, emit=self._before)

    def batch(
        self, results: Iterator[ImageResult], batch: int, let_go: Callable[[], None]
    ) -> Iterator[ImageResult]:
        """Yield a batch's pictures, detailed.

        Args:
            results: as they are drawn.
            batch: its number.
            let_go: called between drawing and detailing; frees what the former held.

        Raises:
            Cancelled: the user stopped the job; the pictures were yielded as far as they were.
        """
        if not self:
            yield from results
            return
        # Of every picture at least one find is expected, until it is known.
        size = self._context.request.batch_size
        self._batch, self._done, self._left = batch, 0, size * sum(self._steps)
        drawn: list[ImageResult] = []
        stopped: Cancelled | None = None
        try:
            for result in results:
                if result.suffix:
                    yield result
                else:
                    drawn.append(result)
        except Cancelled as error:
            stopped = error
        let_go()
        for result in drawn:
            if stopped is not None or not result.is_complete or self._is_told_to_stop():
                yield replace(result, is_complete=False)
            else:
                yield from self._detailed(result)
        if stopped is not None:
            raise stopped
        self._context.check_cancelled()

    def _is_told_to_stop(self) -> bool:
        control = self._context.control
        return control.cancelled or control.skip_batch

    def _detailed(self, result: ImageResult) -> Iterator[ImageResult]:
        """Yield a picture with its details drawn again, and before it what settings ask for."""
        context, settings = self._context, self._context.settings
        work = _Work(Image.fromarray(result.pixels))
        for number, (detail, steps) in enumerate(zip(self._details, self._steps, strict=True)):
            self._left -= steps
            try:
                with context.stage(STAGE, self._batch):
                    masks = self._found(detail, work)
                if settings.ad_save_previews and work.preview is not None:
                    suffix = FOUND if not number else f"{FOUND}-{number + 1}"
                    yield replace(result, pixels=np.asarray(work.preview), suffix=suffix)
                self._draw_all(detail, steps, masks, work, result)
            except Cancelled:
                work.is_complete = False
            if not work.is_complete:
                break
        if work.is_changed and settings.ad_save_images_before:
            yield replace(result, suffix=BEFORE)
        pixels = np.asarray(work.picture) if work.is_changed else result.pixels
        yield replace(
            result, pixels=pixels, is_complete=work.is_complete, timings=dict(context.timings)
        )

    def _found(self, detail: Detail, work: _Work) -> list[Image.Image]:
        """Return the masks of a detail in a picture."""
        context = self._context
        if context.detectors is None:
            raise MissingModel("nothing can be detected here: there is no library of detectors")
        file = context.detectors.library.chosen(detail.detector, "ad_model")
        found = context.detectors.find(work.picture, file, detail.confidence)
        kept = chosen(found, work.picture.size, detail, context.settings.ad_bbox_sortby)
        work.preview = shown(work.picture, kept) if kept else None
        if not kept:
            name = detail.detector
            context.emit(Notice(text=f"ADetailer: {name} found nothing to draw again."))
        return masks_of(kept, work.picture.size, detail)

    def _draw_all(
        self,
        detail: Detail,
        steps: int,
        masks: Sequence[Image.Image],
        work: _Work,
        result: ImageResult,
    ) -> None:
        """Draw the masks of a detail again, one after another, each on what the last one left."""
        request = self._context.request
        own = request.image_prompt(result.index), request.image_negative_prompt(result.index)
        texts = [detail.texts(number, *own) for number in range(len(masks))]
        left = sum(text is not None for text in texts)
        for number, (mask, text) in enumerate(zip(masks, texts, strict=True)):
            if text is None:
                continue
            if self._is_told_to_stop():
                work.is_complete = False
                return
            left -= 1
            self._left += left * steps
            try:
                pixels = self._redrawn(detail, number, text, mask, work.picture, result.index)
            finally:
                self._left -= left * steps
            if pixels is None:
                work.is_complete = False
                return
            work.picture, work.is_changed = Image.fromarray(pixels), True
            self._done += steps

    def _redrawn(
        self,
        detail: Detail,
        number: int,
        texts: tuple[str, str],
        mask: Image.Image,
        picture: Image.Image,
        index: int,
    ) -> Pixels | None:
        """Return a picture with one mask drawn again; None if told to stop before it was done."""
        context = self._context
        files: dict[str, bytes] = {}
        settings = context.settings
        names = settings.ad_script_names.split(",") if settings.ad_only_selected_scripts else None
        acting = [
            one
            for one in context.extensions
            if not one.extension.details(one.values)
            and (names is None or one.extension.name in [name.strip() for name in names])
        ]
        request = detail_request(
            detail,
            context.request,
            index=index,
            number=0 if settings.ad_same_seed_for_each_tap else number,
            texts=texts,
            picture=_put(files, picture),
            mask=_put(files, mask),
            sampler=resolved_sampler(detail, context.request),
            checkpoint=detail.checkpoint or context.request.checkpoint,
            extensions=[one.extension.name for one in acting],
        )
        run = replace(
            context,
            request=request,
            settings=settings.with_overrides(detail.overrides()),
            extensions=tuple(acting),
            emit=self._during,
            read_input=lambda image: files[image.sha256],
        )
        for result in self._draw(run):
            if not result.suffix:
                return result.pixels if result.is_complete else None
        return None

    # --- progress ------------------------------------------------------------------------------

    def _before(self, event: Event) -> None:
        """Pass on an event of what is drawn before the details."""
        if isinstance(event, StepDone) and event.steps:
            self._done = max(self._done, event.step)
            event = replace(event, steps=event.steps + self._left)
        self._context.emit(event)

    def _during(self, event: Event) -> None:
        """Pass on an event of a detail that is drawn, numbered within the batch."""
        count = self._context.request.batch_count
        if isinstance(event, StepDone):
            step, steps = self._done + event.step, self._done + event.steps + self._left
            event = replace(event, step=step, steps=steps, batch=self._batch, batch_count=count)
        elif isinstance(event, StageStarted):
            event = replace(event, batch=self._batch, batch_count=count)
        self._context.emit(event)


@dataclass(eq=False)
class _Work:
    """A picture on its way: as it is now, what was found last, and whether it goes on."""

    picture: Image.Image
    preview: Image.Image | None = None
    is_changed: bool = False
    is_complete: bool = True


def _put(files: dict[str, bytes], picture: Image.Image) -> InputImage:
    """Return a name for a picture under which it is found in `files`."""
    file = io.BytesIO()
    # It is read once and thrown away: small is not worth waiting for.
    picture.save(file, "PNG", compress_level=1)
    name = hashlib.sha256(file.getvalue()).hexdigest()
    files[name] = file.getvalue()
    return InputImage(name, picture.width, picture.height)
