"""Pixels to bytes of a picture file: PNG, JPEG and WebP, with infotext inside.

The one door to the formats: `png.py` writes PNG, Pillow the others; `metadata.py` reads the text
back, `grid.py` makes contact sheets. Saving is `writer.py`'s.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sdforge.core.errors import InvalidRequest
from sdforge.output.grid import grid_rows, make_grid
from sdforge.output.metadata import EXIF_IFD, USER_COMMENT, encode_user_comment, read_infotext
from sdforge.output.png import encode_png

__all__ = ["MEDIA_TYPES", "encode_image", "grid_rows", "make_grid", "read_infotext"]

log = logging.getLogger(__name__)

MEDIA_TYPES: dict[str, str] = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
}

# Longest side that each format can hold, in pixels.
_MAX_SIDE = {"image/png": 2**31 - 1, "image/jpeg": 65535, "image/webp": 16383}
# An EXIF segment of a JPEG is limited to 64 KiB; its TIFF structure takes some of that.
_MAX_JPEG_COMMENT_BYTES = 65_000


def encode_image(
    pixels: npt.NDArray[np.uint8],
    format: str,
    *,
    infotext: str | None,
    quality: int = 80,
    lossless: bool = False,
    texts: Mapping[str, str] | None = None,
) -> bytes:
    """Return a picture file of `pixels`, uint8 of shape (height, width, 3).

    `infotext` None or "" leaves the metadata out. `quality` (1 to 100) counts for JPEG and WebP,
    `lossless` for WebP. `texts` are the text chunks of a PNG where they are not the infotext alone.

    Raises:
        InvalidRequest: a format we cannot write, or a picture too large for it.
    """
    media_type = MEDIA_TYPES.get(format.lower())
    if media_type is None:
        raise InvalidRequest("samples_format", format, ", ".join(MEDIA_TYPES))
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels must be uint8 (height, width, 3), not {pixels.dtype} "
                         f"{pixels.shape}")  # fmt: skip
    if max(pixels.shape) > _MAX_SIDE[media_type]:
        limit = f"pictures of at most {_MAX_SIDE[media_type]} pixels a side for this format"
        raise InvalidRequest("samples_format", format, limit)
    if media_type == "image/png":
        if texts is None:
            texts = {"parameters": infotext} if infotext else {}
        return encode_png(pixels, texts)
    return _encode_with_pillow(pixels, media_type, infotext, quality, lossless)


def _encode_with_pillow(
    pixels: npt.NDArray[np.uint8],
    media_type: str,
    infotext: str | None,
    quality: int,
    lossless: bool,
) -> bytes:
    from PIL import Image

    exif = Image.Exif()
    if infotext:
        comment = encode_user_comment(infotext)
        if media_type == "image/jpeg" and len(comment) > _MAX_JPEG_COMMENT_BYTES:
            log.warning("infotext of %d characters does not fit into a JPEG file", len(infotext))
        else:
            exif.get_ifd(EXIF_IFD)[USER_COMMENT] = comment
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if media_type == "image/jpeg":
        image.save(buffer, "JPEG", quality=quality, exif=exif)
    else:
        image.save(buffer, "WEBP", quality=quality, lossless=lossless, exif=exif)
    return buffer.getvalue()
