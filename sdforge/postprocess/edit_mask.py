"""The mask of OpenAI's edits → ours: what is transparent there is drawn, here what is white."""

from __future__ import annotations

import io

from PIL import Image

from sdforge.postprocess.decoding import decode_picture

_MAX_PIXELS = 2**26


def transparent_parts(data: bytes) -> bytes:
    """Return a PNG that is white where a picture is transparent.

    Raises:
        InvalidRequest: it cannot be read.
    """
    picture = decode_picture(data, "mask", max_pixels=_MAX_PIXELS)
    alpha = picture.getchannel("A") if picture.mode == "RGBA" else Image.new("L", picture.size, 255)
    file = io.BytesIO()
    alpha.point(lambda value: 255 if value < 128 else 0).save(file, "PNG", compress_level=1)
    return file.getvalue()
