"""A picture's file → a small picture's file."""

from __future__ import annotations

import io

from PIL import Image

from sdforge.postprocess.decoding import decode_picture

_QUALITY = 80


def thumbnail(data: bytes, size: int, *, max_pixels: int) -> bytes:
    """Return a WebP file of at most `size` pixels along each side; small pictures stay as they are.

    Args:
        data: the whole file.
        size: in pixels.
        max_pixels: larger pictures are refused by their header.

    Raises:
        InvalidRequest: it cannot be read, or is too large.
    """
    picture = decode_picture(data, "picture", max_pixels=max_pixels)
    picture.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=_QUALITY, method=2)
    return file.getvalue()
