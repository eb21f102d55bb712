"""The infotext inside a picture file, whoever wrote it.

PNG keeps it in the text chunk `parameters`; JPEG, WebP and AVIF in EXIF's UserComment; GIF in its
comment. What other programs write is translated by `foreign.py`. Parsing the text is
`infotext.py`'s.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path

from sdforge.output.foreign import Foreign, foreign_infotext
from sdforge.output.infotext import parse_infotext
from sdforge.output.png import is_png, read_png_text

log = logging.getLogger(__name__)

EXIF_IFD = 0x8769
USER_COMMENT = 0x9286
# EXIF 2.3, table 9: the character code of a user comment.
_UNICODE = b"UNICODE\0"
_OTHER_CODES = (b"ASCII\0\0\0", b"JIS\0\0\0\0\0", b"\0\0\0\0\0\0\0\0")


def read_infotext(source: Path | str | bytes) -> str:
    """Return the infotext of a picture file (path or content), "" where there is none."""
    return read_text_items(source).get("parameters", "").strip("\0")


def read_size(path: Path) -> tuple[int, int]:
    """Return a picture's (width, height) in pixels, from its header alone.

    Raises:
        OSError, ValueError, SyntaxError: it cannot be read, or is no picture.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            return image.size
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error


def read_text_items(source: Path | str | bytes) -> dict[str, str]:
    """Return all texts a picture file carries, by keyword; the infotext is `parameters`.

    A file that is no picture, or is damaged, gives {}.
    """
    return read_texts(source).items


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The texts of a picture file by keyword, and what another program had to say among them."""

    items: dict[str, str]
    foreign: Foreign | None = None


def read_texts(source: Path | str | bytes) -> Texts:
    """Return the texts of a picture file; an infotext made of another program's is `parameters`."""
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        log.warning("cannot read %s: %s", source, error.strerror)
        return Texts(items={})
    items = read_png_text(data) if is_png(data) else {}
    if "parameters" not in items:
        items |= _read_others(data)
    foreign = None if _is_ours(items) else foreign_infotext(items)
    if foreign is not None and "parameters" in items:
        items[foreign.program] = items.pop("parameters")
    if foreign is not None and foreign.infotext:
        items["parameters"] = foreign.infotext
    return Texts(items=items, foreign=foreign)


def _is_ours(items: dict[str, str]) -> bool:
    """Whether there is an infotext already; Fooocus keeps JSON in its place.

    A prompt may begin with a brace too (`{red|green} apple`).
    """
    text = items.get("parameters", "").strip()
    return bool(text) and (not text.startswith("{") or bool(parse_infotext(text).fields))


def encode_user_comment(text: str) -> bytes:
    """Return the value of EXIF's UserComment: a marker and big-endian UTF-16, like A1111's."""
    return _UNICODE + text.encode("utf-16-be", "replace")


def decode_user_comment(value: bytes) -> str:
    """Return the text of an EXIF UserComment in any of the encodings met in the wild."""
    if value.startswith(_UNICODE):
        return _decode_utf16(value[len(_UNICODE) :])
    for code in _OTHER_CODES:
        value = value.removeprefix(code)
    return value.decode("utf-8", "replace").rstrip("\0")


def _decode_utf16(raw: bytes) -> str:
    """Decode UTF-16 without a byte order mark by where the zero bytes of its ASCII letters lie."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", "replace")
    big_endian = raw[0::2].count(0) >= raw[1::2].count(0)
    return raw.decode("utf-16-be" if big_endian else "utf-16-le", "replace")


def _read_others(data: bytes) -> dict[str, str]:
    """Return EXIF's user comment or a GIF's comment as `parameters`."""
    from PIL import Image

    # Pillow raises whatever its many format plugins meet in a damaged file, hence the wide net.
    try:
        with Image.open(io.BytesIO(data)) as image:
            exif = image.getexif()
            # Fooocus keeps it beside the block that it belongs into.
            comment = exif.get_ifd(EXIF_IFD).get(USER_COMMENT, exif.get(USER_COMMENT))
            if comment is None:
                comment = image.info.get("comment")
    except Exception as error:  # noqa: BLE001
        log.debug("no picture that can be read: %s", error)
        return {}
    if isinstance(comment, bytes):
        comment = decode_user_comment(comment)
    return {"parameters": comment} if isinstance(comment, str) and comment else {}
