"""A script's job: where its drawings come from, and how many there will be.

`core.script` says what scripts are; `runner.py` makes one of these per job that has one.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from sdforge.core.events import Event, Notice, StageStarted, StepDone
from sdforge.core.extension import Values
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest
from sdforge.core.result import ImageResult
from sdforge.core.script import Script
from sdforge.core.settings import Settings
from sdforge.engine.expansion import Emit, Run

if TYPE_CHECKING:
    from PIL import Image

ReadInput = Callable[[InputImage], bytes]
Enlarge = Callable[["Image.Image", int, int, str], "Image.Image"]


class JobStudio:
    """The `Studio` of one job. Pictures that a script makes stay in memory, until they are drawn.

    `read` finds both those and the client's; it is what the pipeline shall read inputs with.
    """

    def __init__(
        self,
        settings: Settings,
        run: Run,
        emit: Emit,
        read_input: ReadInput,
        batch_total: int,
        enlarge: Enlarge,
    ) -> None:
        """Take what draws a request and where its events go.

        Args:
            settings: the job's.
            run: draws one request.
            emit: takes the events, renumbered.
            read_input: returns the file of a client's picture.
            batch_total: batches that the script said it would draw.
            enlarge: stretches a picture to (width, height) by the upscaler of a name.
        """
        self._settings = settings
        self._run = run
        self._emit = emit
        self._read_input = read_input
        self._batch_total = batch_total
        self._enlarge = enlarge
        self._batches = 0
        self._own: dict[str, bytes] = {}

    @property
    def settings(self) -> Settings:
        """The job's snapshot."""
        return self._settings

    def draw(self, request: GenerationRequest) -> Iterator[ImageResult]:
        """Yield the pictures of a request; afterwards what was `put` for it is forgotten."""
        try:
            yield from self._run(request, self._counted)
        finally:
            self._batches += request.batch_count
            self._own.clear()

    def picture(self, image: InputImage) -> Image.Image:
        """Return a picture that the request refers to.

        Raises:
            NotFound: it is gone.
            InvalidRequest: it cannot be read any more.
        """
        from sdforge.postprocess.decoding import decode_picture

        limit = self._settings.max_input_pixels
        return decode_picture(self.read(image), "init_images", max_pixels=limit)

    def put(self, picture: Image.Image) -> InputImage:
        """Return a name for a picture, under which the next `draw` finds it."""
        file = io.BytesIO()
        # It is read once and thrown away: small is not worth waiting for.
        picture.save(file, "PNG", compress_level=1)
        data = file.getvalue()
        name = hashlib.sha256(data).hexdigest()
        self._own[name] = data
        return InputImage(name, picture.width, picture.height)

    def enlarged(self, picture: Image.Image, width: int, height: int, upscaler: str) -> Image.Image:
        """Return a picture stretched to a size by an upscaler, which may be a model."""
        self._counted(StageStarted(stage="upscale"))
        return self._enlarge(picture, width, height, upscaler)

    def notice(self, text: str) -> None:
        """Tell the user what went otherwise than asked."""
        self._emit(Notice(text=text))

    def read(self, image: InputImage) -> bytes:
        """Return the file of a picture; raises `NotFound`."""
        own = self._own.get(image.sha256)
        return self._read_input(image) if own is None else own

    def _counted(self, event: Event) -> None:
        if isinstance(event, (StageStarted, StepDone)):
            batch = event.batch + self._batches
            # A script may draw more than it said; no bar runs backwards for that.
            total = max(self._batch_total, self._batches + event.batch_count)
            event = replace(event, batch=batch, batch_count=total)
        self._emit(event)


def run_script(
    script: Script, values: Values, request: GenerationRequest, studio: JobStudio
) -> Iterator[ImageResult]:
    """Yield a script's pictures, numbered as they come."""
    index = 0
    for result in script.run(request, values, studio):
        yield replace(result, index=index)
        # Pictures from on the way have the number of the one that they lead to.
        index += not result.suffix
