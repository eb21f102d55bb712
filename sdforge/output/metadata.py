"""The infotext inside a picture file, whoever wrote it.

PNG keeps it in the text chunk `parameters`; JPEG, WebP and AVIF in EXIF's UserComment; GIF in its
comment. NovelAI's PNGs are translated. Parsing the text is `infotext.py`'s.
"""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

from sdforge.output.png import is_png, read_png_text

log = logging.getLogger(__name__)

EXIF_IFD = 0x8769
USER_COMMENT = 0x9286
# EXIF 2.3, table 9: the character code of a user comment.
_UNICODE = b"UNICODE\0"
_OTHER_CODES = (b"ASCII\0\0\0", b"JIS\0\0\0\0\0", b"\0\0\0\0\0\0\0\0")

_NOVELAI_SAMPLERS = {
    "ddim": "DDIM",
    "k_dpm_2": "DPM2",
    "k_dpm_2_ancestral": "DPM2 a",
    "k_dpmpp_2m": "DPM++ 2M",
    "k_dpmpp_2s_ancestral": "DPM++ 2S a",
    "k_dpmpp_sde": "DPM++ SDE",
    "k_euler": "Euler",
    "k_euler_ancestral": "Euler a",
    "k_heun": "Heun",
    "k_lms": "LMS",
    "plms": "PLMS",
}


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
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        log.warning("cannot read %s: %s", source, error.strerror)
        return {}
    items = read_png_text(data) if is_png(data) else {}
    if "parameters" not in items:
        items |= _read_others(data)
    if items.get("Software") == "NovelAI" and "parameters" not in items:
        items |= _translate_novelai(items)
    return items


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
            comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT)
            if comment is None:
                comment = image.info.get("comment")
    except Exception as error:  # noqa: BLE001
        log.debug("no picture that can be read: %s", error)
        return {}
    if isinstance(comment, bytes):
        comment = decode_user_comment(comment)
    return {"parameters": comment} if isinstance(comment, str) and comment else {}


def _translate_novelai(items: dict[str, str]) -> dict[str, str]:
    """Return NovelAI's `Comment` as an infotext; its model draws with clip skip 2, ENSD 31337."""
    try:
        made: Any = json.loads(items["Comment"])
        sampler = _NOVELAI_SAMPLERS.get(made["sampler"], "Euler a")
        text = (
            f"{items.get('Description', '')}\nNegative prompt: {made['uc']}\n"
            f"Steps: {made['steps']}, Sampler: {sampler}, CFG scale: {made['scale']}, "
            f"Seed: {made['seed']}, Size: {made['width']}x{made['height']}, "
            "Clip skip: 2, ENSD: 31337"
        )
    except (KeyError, TypeError, ValueError):
        return {}
    return {"parameters": text}
