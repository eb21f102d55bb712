"""POST /sdapi/v1/png-info: the infotext inside a picture."""

from __future__ import annotations

import binascii

import pybase64
from fastapi import APIRouter

from sdforge.api.context import ApiContext
from sdforge.api.links import fetched, is_link
from sdforge.api.schemas import PngInfoRequest, PngInfoResponse
from sdforge.core.errors import InvalidRequest
from sdforge.core.settings import Settings
from sdforge.output.infotext import a1111_parameters, parse_infotext
from sdforge.output.metadata import read_texts


def router(context: ApiContext) -> APIRouter:
    """Return the route."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["pictures"])

    @routes.post("/png-info")
    def png_info(payload: PngInfoRequest) -> PngInfoResponse:
        """Read a picture's infotext, raw and parsed; the picture is base64 or a data: URI."""
        settings = context.engine.settings.current
        found = read_texts(picture_bytes(payload.image, "image", settings))
        items, foreign = found.items, found.foreign
        text = items.pop("parameters", "").strip("\0")
        parameters = a1111_parameters(parse_infotext(text))
        note = ""
        if foreign is not None:
            note = foreign.problem or f"Read from what {foreign.program} wrote."
        return PngInfoResponse(info=text, items=items, parameters=parameters, note=note)

    return routes


def picture_bytes(text: str, field: str, settings: Settings) -> bytes:
    """Return the bytes of a picture sent as base64, as a data: URI, or as a link if that may be.

    Raises:
        InvalidRequest: it is none of them, or no picture file.
    """
    allowed = "a picture file in base64, or a data: URI of one"
    text = text.strip()
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        if is_link(text):
            data = fetched(text, field, settings)
        else:
            data = pybase64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not _is_picture(data):
        raise InvalidRequest(field, text[:40], allowed)
    return data


def _is_picture(data: bytes) -> bool:
    signatures = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")
    riff = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return data.startswith(signatures) or riff or data[4:12] in (b"ftypavif", b"ftypavis")
