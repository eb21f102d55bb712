"""What img2img's Sketch and Inpaint sketch paint, made into the pictures of a request."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

from sdforge.core.errors import InvalidRequest
from sdforge.core.inputs import InputImage
from sdforge.ui.passes import MODE_PAINTED_COLOURS, Pictures

if TYPE_CHECKING:
    from PIL import Image

    from sdforge.engine import Engine


def with_sketch(
    engine: Engine, pictures: Pictures, mode: str, *, transparency: float, blur: float
) -> Pictures:
    """Return a form's pictures with the paint on the first of them, and as the mask.

    Args:
        engine: stores the pictures.
        pictures: as the page sent them; without paint they stay as they are.
        mode: the kind of img2img.
        transparency: of the paint in Inpaint sketch, 0 to 100.
        blur: of its edge, in pixels.

    Raises:
        InvalidRequest: a picture is no longer there or cannot be read.
    """
    if pictures.init is None or pictures.paint is None:
        return pictures
    from sdforge.postprocess.sketch import blended_sketch, sketch_mask, sketched

    picture, paint = _read(engine, pictures.init), _read(engine, pictures.paint)
    if mode != MODE_PAINTED_COLOURS:
        return replace(pictures, init=_stored(engine, sketched(picture, paint)))
    mask = sketch_mask(picture, paint)
    if mask.getextrema() == (0, 0):
        return replace(pictures, mask=None)
    started = blended_sketch(picture, paint, transparency=transparency / 100, blur=blur)
    return replace(pictures, init=_stored(engine, started), mask=_stored(engine, mask))


def _read(engine: Engine, image: InputImage) -> Image.Image:
    from sdforge.postprocess.decoding import decode_picture

    most = engine.settings.current.max_input_pixels
    return decode_picture(engine.inputs.read(image), "Picture", max_pixels=most)


def _stored(engine: Engine, picture: Image.Image) -> InputImage:
    file = io.BytesIO()
    try:
        # It is read once, soon; small is not worth the time.
        picture.save(file, "PNG", compress_level=1)
    except (OSError, MemoryError) as error:
        raise InvalidRequest("Picture", str(picture.size), "one that can be stored") from error
    return engine.add_input(file.getvalue(), "Picture")
