"""PNG, written fast and read only as far as its text.

Pillow's writer tries five filters per line and deflates with zlib: 0.3 s for a 1024² picture. One
fixed filter (Paeth, the best single one for photographs) and ISA-L's deflate need a few hundredths
of that at about a tenth more bytes. Without the `isal` package zlib's fastest level is used.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = 3
_PAETH = 4
# Lines filtered at a time: the temporaries of 32 lines stay in the second-level cache.
_STRIP = 32
# Compressed texts that grow beyond this together are an attack, not an infotext.
_MAX_TEXT_BYTES = 16 * 1024 * 1024


def _find_deflate() -> Callable[[npt.NDArray[np.uint8]], bytes]:
    """Return the fastest compressor there is, at the level that suits filtered pictures."""
    try:
        from isal import isal_zlib
    except ImportError:
        return partial(zlib.compress, level=1)
    return partial(isal_zlib.compress, level=2)


_deflate = _find_deflate()


def encode_png(pixels: npt.NDArray[np.uint8], text: Mapping[str, str]) -> bytes:
    """Return a PNG file of `pixels` (height, width, 3) that carries `text` by keyword."""
    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header)]
    chunks += [_text_chunk(keyword, value) for keyword, value in text.items()]
    chunks.append(_chunk(b"IDAT", _deflate(_filter(pixels))))
    chunks.append(_chunk(b"IEND", b""))
    return _SIGNATURE + b"".join(chunks)


def is_png(data: bytes) -> bool:
    """Return whether `data` begins like a PNG file."""
    return data.startswith(_SIGNATURE)


def read_png_text(data: bytes) -> dict[str, str]:
    """Return the text chunks of a PNG file by keyword; damaged ones are left out.

    Of compressed ones those count that come first, up to 16 MiB of text in all.
    """
    found: dict[str, str] = {}
    room = _MAX_TEXT_BYTES
    for kind, body in _chunks(data):
        entry = _read_text(kind, body, room)
        if entry is None:
            continue
        found.setdefault(*entry)
        if len(entry[1]) > len(body):
            room = max(room - len(entry[1]), 0)
    return found


def _filter(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the lines of the file: each a filter byte and width × 3 Paeth residuals."""
    height, width, channels = pixels.shape
    size = width * channels
    lines = np.empty((height, 1 + size), np.uint8)
    lines[:, 0] = _PAETH
    # A zero line above and a zero pixel to the left, as the standard defines the edges.
    padded = np.zeros((height + 1, size + channels), np.uint8)
    padded[1:, channels:] = pixels.reshape(height, size)
    for top in range(0, height, _STRIP):
        strip = padded[top : top + _STRIP + 1]
        np.subtract(
            strip[1:, channels:], _paeth(strip, channels), out=lines[top : top + _STRIP, 1:]
        )
    return lines


def _paeth(strip: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.uint8]:
    """Return the Paeth predictor of each byte of `strip` except its first line and pixel.

    The choice of left, above or corner is made with bit masks: `np.where` takes 7 times as long.
    """
    left, above, corner = strip[1:, :-channels], strip[:-1, channels:], strip[:-1, :-channels]
    wide_corner = corner.astype(np.int16)
    to_left = above - wide_corner
    to_above = left - wide_corner
    to_corner = np.abs(to_left + to_above)
    np.abs(to_left, out=to_left)
    np.abs(to_above, out=to_above)
    choose_above = _mask(to_above <= to_corner)
    choose_left = _mask((to_left <= to_above) & (to_left <= to_corner))
    second = corner ^ ((above ^ corner) & choose_above)
    chosen: npt.NDArray[np.uint8] = second ^ ((left ^ second) & choose_left)
    return chosen


def _mask(condition: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Return 0xFF where true, 0 elsewhere."""
    mask: npt.NDArray[np.uint8] = np.negative(condition.view(np.uint8))
    return mask


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(body)), kind, body, struct.pack(">I", checksum)))


def _text_chunk(keyword: str, value: str) -> bytes:
    """Return a tEXt chunk, or iTXt where Latin-1 does not suffice (as A1111 by way of Pillow)."""
    # A zero byte ends the text for some readers, and the standard forbids it.
    value = value.replace("\0", "")
    name = keyword.encode("latin-1") + b"\0"
    try:
        return _chunk(b"tEXt", name + value.encode("latin-1"))
    except UnicodeEncodeError:
        # Half of a surrogate pair has no UTF-8 form.
        return _chunk(b"iTXt", name + b"\0\0\0\0" + value.encode("utf-8", "replace"))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and body of each complete chunk."""
    position = len(_SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        if len(body) < length:
            return
        yield kind, body
        position += 12 + length


def _read_text(kind: bytes, body: bytes, room: int) -> tuple[str, str] | None:
    keyword, separator, rest = body.partition(b"\0")
    if not separator or kind not in (b"tEXt", b"zTXt", b"iTXt"):
        return None
    name = keyword.decode("latin-1")
    if kind == b"tEXt":
        return name, rest.decode("latin-1")
    if kind == b"zTXt":
        raw = _inflate(rest[1:], room)
        return None if raw is None else (name, raw.decode("latin-1"))
    # iTXt: compression flag and method, language, translated keyword, text.
    parts = rest[2:].split(b"\0", 2)
    if len(parts) < 3:
        return None
    raw = _inflate(parts[2], room) if rest[0] else parts[2]
    return None if raw is None else (name, raw.decode("utf-8", "replace"))


def _inflate(data: bytes, room: int) -> bytes | None:
    """Return inflated bytes; None where they are damaged, or more than there is room for."""
    decoder = zlib.decompressobj()
    try:
        # A limit of 0 would be none.
        text = decoder.decompress(data, room + 1)
    except zlib.error:
        return None
    return text if decoder.eof and len(text) <= room else None
