"""Extras: pictures through upscalers and restorers of faces, without any checkpoint.

The order is A1111's: enlarged first.

Sizes are as asked to the pixel, where A1111 rounds them down to multiples of eight (decision 0066).
No torch here: upscalers that need it load it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sdforge.core.errors import Cancelled, MissingModel
from sdforge.core.events import Event, StageStarted, StepDone
from sdforge.core.extras import TO_SIZE, Extras
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest
from sdforge.core.result import GenerationInfo, ImageResult, ModelIdentity, Processed
from sdforge.core.settings import Settings
from sdforge.output.infotext import parse_infotext
from sdforge.output.metadata import read_infotext
from sdforge.pipeline.context import RunControl
from sdforge.pipeline.faces import STAGE, restored
from sdforge.pipeline.upscaling import find_upscaler
from sdforge.postprocess.upscalers import run_upscaler

if TYPE_CHECKING:
    from PIL import Image

    from sdforge.models.faces.restoring import Faces
    from sdforge.models.upscalers.loaded import Upscalers


@dataclass(kw_only=True)
class ExtrasRun:
    """The pictures of one job, one after another.

    Attributes:
        request: resolved, with `extras`.
        settings: the job's snapshot.
        upscalers: gives out networks; None where there are none.
        faces: restores them; None where nothing can.
        emit: takes events.
        control: how others stop the run.
        read_input: returns the file of a picture.
        timings: seconds by stage, added up.
    """

    request: GenerationRequest
    settings: Settings
    upscalers: Upscalers | None
    emit: Callable[[Event], None]
    control: RunControl
    read_input: Callable[[InputImage], bytes]
    faces: Faces | None = None
    timings: dict[str, float] = field(default_factory=dict)

    def pictures(self) -> Iterator[ImageResult]:
        """Yield the results; `skip` goes on with the next picture.

        Raises:
            Cancelled: the user stopped the job.
            NotFound, InvalidRequest: a picture is gone or cannot be read any more.
            ModelError, OutOfMemory: an upscaler cannot run.
        """
        for index, image in enumerate(self.request.init_images):
            self.control.skip_batch = False
            self._check_cancelled()
            try:
                yield self._one(index, image)
            except _Skipped:
                continue

    def _one(self, index: int, image: InputImage) -> ImageResult:
        import numpy as np

        from sdforge.postprocess.decoding import decode_picture, flattened

        extras = self.request.extras or Extras()
        with self._stage("input", index):
            data = self.read_input(image)
            limit = self.settings.max_input_pixels
            opened = decode_picture(data, "image", max_pixels=limit)
            source = flattened(opened, self.settings.img2img_background_color)
            infotext = read_infotext(data)
        with self._stage("upscale", index):
            made, steps = self._enlarged(source, extras, index)
        for restorer, share in extras.restorers:
            with self._stage(STAGE, index):
                made = self._restored(made, restorer, share, extras, index)
            steps[f"{restorer} visibility"] = f"{share:g}"
        if extras.codeformer_visibility:
            steps["CodeFormer weight"] = f"{extras.codeformer_weight:g}"
        name = extras.names[index] if index < len(extras.names) else ""
        return ImageResult(
            pixels=np.asarray(made),
            info=self._info(index, infotext),
            index=index,
            timings=dict(self.timings),
            processed=Processed(steps=steps, infotext=infotext, name=name),
        )

    def _enlarged(
        self, source: Image.Image, extras: Extras, index: int
    ) -> tuple[Image.Image, dict[str, str]]:
        from PIL import Image

        if not extras.enlarges:
            return source, {}
        steps = _sizing(extras, source.size)
        names = extras.upscalers
        made = [self._by_one(name, source, extras, index, names) for name in names]
        if extras.resize_mode == TO_SIZE and extras.crop:
            steps["Postprocess crop to"] = f"{extras.width}x{extras.height}"
        steps["Postprocess upscaler"] = names[0]
        if not extras.mixes:
            return made[0], steps
        steps["Postprocess upscaler 2"] = names[1]
        return Image.blend(made[0], made[1], extras.second_visibility), steps

    def _restored(
        self, picture: Image.Image, name: str, share: float, extras: Extras, index: int
    ) -> Image.Image:
        """Return a picture with its faces restored, mixed with itself by `share`."""
        from PIL import Image

        if self.faces is None:
            raise MissingModel("faces cannot be restored here: there is no library of networks")

        names = [*extras.upscalers, *(one for one, _ in extras.restorers)]
        before = names.index(name, len(extras.upscalers))

        def on_face(done: int, total: int) -> None:
            self._count(STAGE, index, before * total + done, len(names) * total)

        made = restored(picture, name, extras.codeformer_weight, self.faces, on_face)
        return Image.blend(picture, made, share)

    def _count(self, stage: str, index: int, step: int, steps: int) -> None:
        """Tell how far a picture is, and stop where that was asked for."""
        count = len(self.request.init_images)
        self.emit(StepDone(step=step, steps=steps, batch=index, batch_count=count, stage=stage))
        self._check_cancelled()
        if self.control.skip_batch:
            raise _Skipped

    def _by_one(
        self, name: str, source: Image.Image, extras: Extras, index: int, names: Sequence[str]
    ) -> Image.Image:
        """Return a picture enlarged by one upscaler, of the result's size."""
        from PIL import Image

        before, parts = names.index(name), len(names) + len(extras.restorers)

        def on_tile(done: int, total: int) -> None:
            self._count("upscale", index, before * total + done, parts * total)

        upscaler = find_upscaler(name, self.upscalers, self.settings, on_tile)
        size = extras.enlarged_size(*source.size)
        # One that does not enlarge, but cleans, runs at its own size too (A1111).
        if size[0] >= source.width and size[1] >= source.height:
            made = run_upscaler(source, *size, upscaler)
        else:
            made = source
        if made.size != size:
            made = made.resize(size, Image.Resampling.LANCZOS)
        return _cropped(made, extras.result_size(*source.size))

    def _info(self, index: int, infotext: str) -> GenerationInfo:
        parsed = parse_infotext(infotext)
        seed = parsed.fields.get("Seed", "")
        return GenerationInfo(
            request=self.request,
            index=index,
            seed=int(seed) if seed.isdecimal() else -1,
            subseed=-1,
            prompt=parsed.prompt,
            negative_prompt=parsed.negative_prompt,
            model=ModelIdentity(),
        )

    @contextmanager
    def _stage(self, name: str, index: int) -> Iterator[None]:
        count = len(self.request.init_images)
        self.emit(StageStarted(stage=name, batch=index, batch_count=count))
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.timings[name] = self.timings.get(name, 0.0) + spent

    def _check_cancelled(self) -> None:
        if self.control.cancelled:
            raise Cancelled("the job was interrupted")


class _Skipped(Exception):
    """The user wants the next picture instead of this one."""


def _sizing(extras: Extras, size: tuple[int, int]) -> dict[str, str]:
    """Return the infotext keys that say how the size was found."""
    if extras.resize_mode == TO_SIZE:
        return {"Postprocess upscale to": f"{extras.width}x{extras.height}"}
    steps = {"Postprocess upscale by": f"{extras.factor:g}"}
    if extras.is_limited(*size):
        steps["Max side length"] = str(extras.max_side)
    return steps


def _cropped(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    return image.crop((left, top, left + size[0], top + size[1]))
