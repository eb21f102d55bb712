"""Pictures that clients send as links instead of as base64: refused, or fetched by strict rules.

A1111 fetches any link by default. Here that is off (`api_enable_requests`); where somebody switches
it on, `core/outbound.py` does the fetching.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pybase64

from sdforge.api.translate_control import TITLES as CONTROL_TITLES
from sdforge.api.translate_references import TITLES as REFERENCE_TITLES
from sdforge.core.errors import InvalidRequest
from sdforge.core.outbound import OutboundRefused, Rules, fetch
from sdforge.core.settings import Settings

MAX_LINK_BYTES = 32 * 2**20
_TITLES = CONTROL_TITLES | REFERENCE_TITLES
_ALLOWED = "the picture itself in base64"


def is_link(value: Any) -> bool:
    """Tell whether a picture's place holds a link."""
    return isinstance(value, str) and value.lstrip()[:8].casefold().startswith(
        ("http://", "https://")
    )


def fetched(link: str, field: str, settings: Settings) -> bytes:
    """Return the file behind a link. Blocks for seconds, so not for the event loop.

    Raises:
        InvalidRequest: links are switched off, or this one may not or cannot be fetched.
    """
    link = link.strip()
    if not settings.api_enable_requests:
        allowed = f"{_ALLOWED}; this server does not fetch links (setting api_enable_requests)"
        raise InvalidRequest(field, link, allowed)
    rules = Rules(
        local=not settings.api_forbid_local_requests,
        user_agent=settings.api_useragent,
        max_bytes=MAX_LINK_BYTES,
    )
    try:
        return fetch(link, rules)
    except OutboundRefused as error:
        raise InvalidRequest(
            field, link, f"{_ALLOWED}, or a link that can be fetched: {error}"
        ) from error


def without_links(values: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return a payload of txt2img or img2img in which links have become base64.

    Raises:
        InvalidRequest: as `fetched` does.
    """

    def replaced(value: Any, field: str) -> Any:
        if is_link(value):
            return pybase64.b64encode_as_string(fetched(value, field, settings))
        if isinstance(value, list):
            return [replaced(part, field) for part in value]
        if isinstance(value, Mapping):
            return {key: replaced(part, f"{field}.{key}") for key, part in value.items()}
        return value

    result = dict(values)
    for field in ("init_images", "mask", "firstpass_image", "reference_images"):
        if result.get(field):
            result[field] = replaced(result[field], field)
    result["alwayson_scripts"] = {
        title: replaced(sent, title) if title.strip().casefold() in _TITLES else sent
        for title, sent in values["alwayson_scripts"].items()
    }
    return result
