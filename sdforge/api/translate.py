"""A1111's payload → `GenerationRequest`.

What this version cannot do is refused by name (501; unknown scripts 422 as in A1111) instead of
being left out of the picture in silence; values that mean "off" pass. Limits and names are not
checked here: the engine does that for every client.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from sdforge.api.schemas import EXTRAS, LenientModel
from sdforge.core.errors import InvalidRequest, NotAvailable
from sdforge.core.fields import FIELD, FIELDS, Field
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import OPTIONS
from sdforge.output.infotext import parse_infotext, request_from_infotext

log = logging.getLogger(__name__)

_MODULES = "forge_additional_modules"
# A1111's scripts that only exist to build its page: it takes their arguments and ignores them.
_PAGE_SCRIPTS = frozenset(("sampler", "seed", "refiner", "comments", "extra options"))
# Values that Forge's clients send in forge_additional_modules for "as the checkpoint has it".
_SAME_MODULES = frozenset(("Use same choices", "Automatic", "None", ""))


class UnknownScript(InvalidRequest):
    """A script that this server does not have; the sentence is A1111's."""

    def __init__(self, field: str, title: str) -> None:
        super().__init__(field, title, "no scripts in this version")
        self.args = (f"Script '{title[:80]}' not found",)


def filled_in(payload: LenientModel) -> dict[str, Any]:
    """Return all values of a payload: sent ones, else from its infotext, else A1111's defaults."""
    values = payload.model_dump()
    if values["infotext"]:
        _fill_from_infotext(values, payload.model_fields_set)
    return values


def generation_request(values: Mapping[str, Any]) -> GenerationRequest:
    """Translate a payload, as `filled_in` returns it.

    Raises:
        NotAvailable: it asks for a feature that this version lacks.
        UnknownScript: it names a script.
        InvalidRequest: forge_additional_modules is no list of names.
    """
    _refuse_what_is_missing(values)
    _refuse_scripts(values)
    parameters = {row.name: _parameter(row, values) for row in FIELDS}
    overrides = override_settings(values["override_settings"])
    return GenerationRequest(**parameters, overrides=overrides)


def override_settings(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the overrides in our terms; the engine leaves out nulls and locked settings.

    Raises:
        InvalidRequest: forge_additional_modules is no list of names.
        NotAvailable: forge_additional_modules names more than a VAE.
    """
    overrides = dict(values or {})
    unknown = [key for key in overrides if key not in OPTIONS and key != _MODULES]
    if unknown:
        log.warning("override_settings: not known here and without effect: %s", unknown)
    if modules := overrides.pop(_MODULES, None):
        overrides |= _vae_of_modules(modules)
    return overrides


def _vae_of_modules(modules: Any) -> dict[str, str]:
    """Read Forge's list of VAE and text encoder files as A1111's `sd_vae`."""
    if not isinstance(modules, list) or not all(isinstance(name, str) for name in modules):
        raise InvalidRequest(_MODULES, modules, "a list of file names")
    # Clients send the server's full path, of either kind of system, or the bare name.
    names = [name.replace("\\", "/").rpartition("/")[2] for name in modules]
    names = [name for name in names if name not in _SAME_MODULES]
    if len(names) > 1:
        raise NotAvailable(
            f"{_MODULES}: separate text encoders are not in this version; "
            "allowed: at most one VAE file"
        )
    return {"sd_vae": names[0]} if names else {}


def _refuse_what_is_missing(values: Mapping[str, Any]) -> None:
    for row in EXTRAS:
        value = values[row.name]
        if row.missing and value and value != row.default and value not in row.off:
            raise NotAvailable(
                f"{row.name}: {row.missing} is not in this version; "
                f"leave it out or send {json.dumps(row.default)}"
            )


def _refuse_scripts(values: Mapping[str, Any]) -> None:
    name = values["script_name"]
    if name and name.casefold() != "none":
        raise UnknownScript("script_name", name)
    for title in values["alwayson_scripts"]:
        if title.strip().casefold() not in _PAGE_SCRIPTS:
            raise UnknownScript("alwayson_scripts", title)


def _parameter(row: Field, values: Mapping[str, Any]) -> Any:
    value = values[row.api]
    if row.api == "sampler_name":
        return value or values["sampler_index"] or row.api_default
    if row.api == "scheduler":
        # Left empty it yields to a schedule in the sampler's name ("DPM++ 2M Karras").
        return value or ""
    return value


def _fill_from_infotext(values: dict[str, Any], sent: set[str]) -> None:
    """Set what the client left out to what an infotext says; checkpoint and VAE stay (A1111)."""
    infotext = parse_infotext(values["infotext"])
    request = request_from_infotext(infotext)
    named = {*infotext.fields, FIELD["negative_prompt"].infotext}
    if "Sampler" in named:
        # Older texts hold the schedule in the sampler's name.
        named.add(FIELD["schedule"].infotext)
    for row in FIELDS:
        known = row.name == "prompt" or row.infotext in named
        if known and row.api not in sent:
            values[row.api] = getattr(request, row.name)
    if "sampler_index" in sent and "sampler_name" not in sent:
        values["sampler_name"] = None
    overrides = {key: value for key, value in request.overrides.items() if key != "sd_vae"}
    values["override_settings"] = overrides | (values["override_settings"] or {})
