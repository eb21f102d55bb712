"""Picture files of every kind that people send, and files that are none, as data.

Each good one shows the same thing: a colour in each quarter, so that a picture that was turned,
mirrored or mixed up is seen at once.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

WIDTH, HEIGHT = 48, 32
INFOTEXT = "a cat\nSteps: 4, Sampler: Euler, CFG scale: 3.0, Seed: 17, Size: 24x16"
_COLOURS = ((200, 30, 40), (30, 180, 60), (40, 60, 210), (220, 200, 50))
_GREYS = (40, 110, 180, 250)


def quarters(values: tuple[Any, ...] = _COLOURS) -> npt.NDArray[np.uint8]:
    """Return (HEIGHT, WIDTH, …) with a value in each quarter, row by row."""
    cells = np.array(values, np.uint8).reshape(2, 2, -1)
    return cells.repeat(HEIGHT // 2, 0).repeat(WIDTH // 2, 1).squeeze()


def file_of(image: Image.Image, format: str = "PNG", **more: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **more)
    return file.getvalue()


def png_of(header: bytes, body: bytes) -> bytes:
    """Return a PNG of a header and of what is inflated to its lines, whatever they say."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        size, check = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(kind + data))
        return size + kind + data + check

    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


COLOURS = Image.fromarray(quarters())
GREYS = Image.fromarray(quarters(_GREYS))
_OTHER = Image.new("RGB", COLOURS.size, "black")


def _turned() -> bytes:
    """Return a picture stored lying on its side, with the EXIF entry that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of(COLOURS.transpose(Image.Transpose.ROTATE_90), exif=exif)


def _deep_colours() -> bytes:
    lines = quarters().astype(">u2") * 257
    body = b"".join(b"\0" + line.tobytes() for line in lines)
    return png_of(struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0), body)


def _deep_greys() -> bytes:
    return file_of(Image.fromarray(quarters(_GREYS).astype(np.uint16) * 257))


def _animated(format: str, **more: Any) -> bytes:
    return file_of(COLOURS, format, save_all=True, append_images=[_OTHER, _OTHER], **more)


def _clear_corner() -> bytes:
    """Return a palette of which the first quarter's colour is transparent."""
    image = Image.fromarray(quarters((0, 1, 2, 3)))
    image.putpalette([level for colour in _COLOURS for level in colour])
    return file_of(image, transparency=0)


def _on_white() -> npt.NDArray[np.uint8]:
    pixels = quarters()
    pixels[: HEIGHT // 2, : WIDTH // 2] = 255
    return pixels


_SEEN, _GREY = quarters(), np.stack([quarters(_GREYS)] * 3, -1)
# Name → the file, what is to be seen of it on white, and how far lossy formats may be off.
GOOD: Mapping[str, tuple[bytes, npt.NDArray[np.uint8], int]] = {
    "png": (file_of(COLOURS), _SEEN, 0),
    "jpeg": (file_of(COLOURS, "JPEG", quality=98, subsampling=0), _SEEN, 6),
    "cmyk": (file_of(COLOURS.convert("CMYK"), "JPEG", quality=98), _SEEN, 6),
    "cmyk_tiff": (file_of(COLOURS.convert("CMYK"), "TIFF"), _SEEN, 1),
    "grey": (file_of(GREYS), _GREY, 0),
    "grey_16_bit": (_deep_greys(), _GREY, 0),
    "colours_16_bit": (_deep_colours(), _SEEN, 0),
    "float_tiff": (file_of(Image.fromarray(quarters(_GREYS) / np.float32(255)), "TIFF"), _GREY, 1),
    "palette_with_transparency": (_clear_corner(), _on_white(), 0),
    "animated_gif": (_animated("GIF"), _SEEN, 0),
    "animated_webp": (_animated("WEBP", lossless=True), _SEEN, 0),
    "animated_png": (_animated("PNG"), _SEEN, 0),
    "turned_by_exif": (_turned(), _SEEN, 0),
    "bmp": (file_of(COLOURS, "BMP"), _SEEN, 0),
}

_NOISE = Image.effect_noise((64, 64), 80).convert("RGB")
_BOMB_HEADER = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]


BAD: Mapping[str, bytes] = {
    "nothing_but_words": b"this is no picture",
    "cut_off_png": file_of(_NOISE)[:3000],
    "cut_off_jpeg": file_of(_NOISE, "JPEG")[:600],
    "cut_off_gif": file_of(_NOISE, "GIF")[:900],
    "cut_off_webp": file_of(_NOISE, "WEBP", lossless=True)[:900],
    "damaged_png": _flipped(file_of(_NOISE), 2000),
    "bomb": png_of(_BOMB_HEADER, bytes(1_000_000)),
    "no_lines": png_of(struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0), b""),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
}
