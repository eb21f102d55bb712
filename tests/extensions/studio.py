"""A studio that paints instead of a model: what scripts are tested in, apart from any network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
from PIL import Image

from sdforge.core.errors import Cancelled
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest
from sdforge.core.result import GenerationInfo, ImageResult, ModelIdentity
from sdforge.core.settings import Settings
from sdforge.postprocess.upscalers import UPSCALERS, enlarged

Paint = Callable[[GenerationRequest, Image.Image, int], Image.Image]


def unchanged(request: GenerationRequest, source: Image.Image, row: int) -> Image.Image:
    """Return a picture as it is."""
    return source


@dataclass
class PaintStudio:
    """Draws by a function of the request and the picture it starts from.

    `stop_after` lets that many pictures come, then the job is cancelled.
    """

    paint: Paint = unchanged
    settings: Settings = field(default_factory=Settings)
    stop_after: int | None = None
    requests: list[GenerationRequest] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    pictures: dict[str, Image.Image] = field(default_factory=dict)
    drawn: int = 0

    def draw(self, request: GenerationRequest) -> Iterator[ImageResult]:
        self.requests.append(request)
        for index in range(request.image_count):
            if self.drawn == self.stop_after:
                raise Cancelled("stopped")
            self.drawn += 1
            images = request.init_images
            given = images[index % len(images)]
            made = self.paint(request, self.pictures[given.sha256].convert("RGB"), index)
            yield ImageResult(pixels=np.asarray(made), info=info(request, index), index=index)

    def picture(self, image: InputImage) -> Image.Image:
        return self.pictures[image.sha256]

    def put(self, picture: Image.Image) -> InputImage:
        name = sha256(picture.tobytes() + bytes(str(picture.size), "ascii")).hexdigest()
        self.pictures[name] = picture
        return InputImage(name, *picture.size)

    def enlarged(self, picture: Image.Image, width: int, height: int, upscaler: str) -> Image.Image:
        return enlarged(picture, width, height, UPSCALERS.get(upscaler))

    def notice(self, text: str) -> None:
        self.notices.append(text)


def info(request: GenerationRequest, index: int) -> GenerationInfo:
    """Return how a picture was made."""
    return GenerationInfo(
        request=request, index=index, seed=request.image_seed(index), subseed=0,
        prompt=request.image_prompt(index), negative_prompt="", model=ModelIdentity(),
    )  # fmt: skip
