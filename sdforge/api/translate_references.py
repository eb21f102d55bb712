"""Pictures to refer to in A1111's payload: `reference_images`, or Forge Neo's built-in script.

"ImageStitch Integrated" has three arguments: whether it is on, the pictures, and the longest side
in pixels that they are brought down to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdforge.api.translate_passes import AddInput, stored_picture
from sdforge.core.errors import InvalidRequest
from sdforge.core.inputs import InputImage
from sdforge.core.request import MOST_REFERENCES

FIELD = "reference_images"
TITLES = frozenset(("imagestitch integrated", "imagestitch"))
_NAMES = ("enabled", "references", "max_dim")
_ALIASES = {"enable": "enabled", "images": "references", "max_size": "max_dim"}


def given_references(values: Mapping[str, Any], add_input: AddInput) -> dict[str, Any]:
    """Store the pictures to refer to and return the request's values that name them.

    Raises:
        InvalidRequest: one is no picture that can be read, or there are too many.
    """
    sent, side = list(values[FIELD] or ()), 0
    for title, script in values["alwayson_scripts"].items():
        if title.strip().casefold() in TITLES:
            more, side = _of_script(script)
            sent += more
    if len(sent) > MOST_REFERENCES:
        # Before any of them is decoded.
        raise InvalidRequest(FIELD, f"{len(sent)} pictures", f"at most {MOST_REFERENCES}")
    references: tuple[InputImage, ...] = tuple(
        stored_picture(one, FIELD, add_input) for one in sent
    )
    return {"references": references, "reference_side": side if references else 0}


def _of_script(sent: Any) -> tuple[list[Any], int]:
    arguments = sent.get("args", sent) if isinstance(sent, Mapping) else sent
    if isinstance(arguments, Sequence) and not isinstance(arguments, str):
        arguments = dict(zip(_NAMES, arguments, strict=False))
    if not isinstance(arguments, Mapping):
        allowed = "[enabled, [pictures in base64], longest side] under 'args'"
        raise InvalidRequest("ImageStitch Integrated", sent, allowed)
    named = {_ALIASES.get(str(key), str(key)): one for key, one in arguments.items()}
    if not named.get("enabled", True):
        return [], 0
    # A gallery holds pairs of a picture and its caption.
    pictures = [
        one[0] if isinstance(one, Sequence) and not isinstance(one, str) and one else one
        for one in named.get("references") or ()
    ]
    side = named.get("max_dim") or 0
    if isinstance(side, bool) or not isinstance(side, (int, float)):
        raise InvalidRequest("ImageStitch Integrated", side, "a longest side in pixels")
    return [one for one in pictures if one], int(side)
