"""A file that a client sent → a picture, whatever kind it is, and nothing worse than a refusal.

Only formats whose readers are part of Pillow itself are tried; the size is looked at before
anything is unpacked.
"""

from __future__ import annotations

import binascii
import io
import struct
import zlib

import numpy as np
import pybase64
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from sdforge.core.errors import InvalidRequest

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_ALLOWED = "a whole PNG, JPEG, WebP, GIF, BMP or TIFF picture"
# What Pillow's readers raise on damaged files.
_DAMAGED = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_ROWS = 64
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def decode_base64(text: str, field: str) -> bytes:
    """Return the bytes of base64 with or without a `data:` prefix; white space is skipped.

    Raises:
        InvalidRequest: an http(s) address, or no base64.
    """
    text = text.strip()
    if text[:8].casefold().startswith(("http://", "https://")):
        raise InvalidRequest(field, text, "the picture itself in base64; no links are taken here")
    if text[:5].casefold() == "data:":
        text = text.partition(",")[2]
    try:
        data = pybase64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(field, text[:40], "a picture in base64") from error
    if not data:
        raise InvalidRequest(field, text[:40], "a picture in base64")
    return data


def decode_picture(data: bytes, field: str, *, max_pixels: int) -> Image.Image:
    """Return the picture of a file as RGB, or RGBA where it may be transparent.

    It is turned as its EXIF data says; of animations the first frame counts, of 16 bits the upper.

    Args:
        data: the whole file.
        field: what errors call it.
        max_pixels: larger ones are refused by their header.

    Raises:
        InvalidRequest: damaged, of another format, or too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                found = f"a picture of {image.width}x{image.height}"
                raise InvalidRequest(field, found, f"at most {max_pixels} pixels")
            image.load()
            # A file may say that it is nothing wide.
            if not image.width or not image.height:
                raise InvalidRequest(field, "a picture without pixels", _ALLOWED)
            ImageOps.exif_transpose(image, in_place=True)
            return _in_colours(image)
    except InvalidRequest:
        raise
    except Image.DecompressionBombError as error:
        # Pillow's own limit, before ours can be looked at.
        found = "a picture of far more pixels than that"
        raise InvalidRequest(field, found, f"at most {max_pixels} pixels") from error
    except UnidentifiedImageError as error:
        # Pillow's own sentence names an object in memory.
        found = f"{len(data)} bytes of another kind, or a damaged beginning"
        raise InvalidRequest(field, found, _ALLOWED) from error
    except _DAMAGED as error:
        found = f"{len(data)} bytes that cannot be read ({error})"
        raise InvalidRequest(field, found, _ALLOWED) from error


def promised_pixels(data: bytes) -> int:
    """Return how many pixels a file's header says that there are; 0 where it cannot be read."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return image.width * image.height
    except _DAMAGED:
        return 0


def flattened(image: Image.Image, background: str) -> Image.Image:
    """Return the picture as RGB, transparent parts on a colour such as "#ffffff" (else white)."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    try:
        colour = ImageColor.getrgb(background)[:3]
    except ValueError:
        colour = (255, 255, 255)
    ground = Image.new("RGB", image.size, colour)
    # Some rows at a time, because a large picture need not be there four times over.
    for top in range(0, image.height, _ROWS):
        rows = image.crop((0, top, image.width, min(top + _ROWS, image.height)))
        ground.paste(rows.convert("RGB"), (0, top), rows.getchannel("A"))
    return ground


def _in_colours(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP:
        return _eight_bits(image).convert("RGB")
    is_transparent = "A" in image.mode or "a" in image.mode or "transparency" in image.info
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA" if is_transparent and image.mode != "LAB" else "RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a picture of one deep channel with 8 bits, by the range that its numbers are in."""
    values = np.asarray(image)
    largest = float(np.nanmax(values, initial=0))
    if image.mode == "F":
        scale = 255.0 if largest <= 1 else 1.0
    else:
        scale = 1.0 if image.mode == "I" and largest <= 255 else 1 / 256
    result = np.empty(values.shape, np.uint8)
    # Some rows at a time: as double precision a large picture takes eight times its bytes.
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS)
        deep = np.nan_to_num(values[rows].astype(np.float64)) * scale
        result[rows] = deep.clip(0, 255).astype(np.uint8)
    return Image.fromarray(result)
