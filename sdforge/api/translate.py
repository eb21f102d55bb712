"""A1111's payload → `GenerationRequest`.

What this version cannot do is refused by name (422) instead of
being left out of the picture in silence; values that mean "off" pass. Limits and names are not
checked here: the engine does that for every client.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from sdforge.api.schemas import EXTRAS, LenientModel
from sdforge.api.translate_control import TITLES as CONTROL_TITLES
from sdforge.api.translate_control import control_units
from sdforge.api.translate_passes import (
    HIRES_MODULES,
    AddInput,
    given_pictures,
    pass_parameters,
)
from sdforge.api.translate_references import TITLES as REFERENCE_TITLES
from sdforge.api.translate_references import given_references
from sdforge.core.control import ControlUnit
from sdforge.core.errors import InvalidRequest, NotAvailable
from sdforge.core.extension import Extension
from sdforge.core.fields import FIELD, FIELDS, Field, fields_of
from sdforge.core.registry import Registry
from sdforge.core.request import GenerationRequest
from sdforge.core.script import Script
from sdforge.core.settings import OPTIONS
from sdforge.extensions.catalog import values_of_extensions
from sdforge.output.infotext import parse_infotext, request_from_infotext
from sdforge.output.infotext_control import control_values

log = logging.getLogger(__name__)

MODULES = "forge_additional_modules"
# A1111's scripts that only exist to build its page: it takes their arguments and ignores them.
_PAGE_SCRIPTS = frozenset(("sampler", "seed", "refiner", "comments", "extra options"))
# Values that Forge's clients send in forge_additional_modules for "as the checkpoint has it".
_SAME_MODULES = frozenset(("Use same choices", "Automatic", "None", ""))


class UnknownScript(InvalidRequest):
    """A script that this server does not have; the sentence is A1111's."""

    def __init__(self, field: str, title: str, text: str = "") -> None:
        super().__init__(field, title, "one of those that /sdapi/v1/scripts lists")
        self.args = (text or f"Script '{title[:80]}' not found",)


def filled_in(payload: LenientModel) -> dict[str, Any]:
    """Return all values of a payload: sent ones, else from its infotext, else A1111's defaults."""
    values = payload.model_dump()
    if values["infotext"]:
        _fill_from_infotext(values, payload.model_fields_set)
    return values


def generation_request(
    values: Mapping[str, Any],
    extensions: Registry[Extension],
    *,
    kind: str = "txt2img",
    add_input: AddInput,
) -> GenerationRequest:
    """Translate a payload of a route "txt2img" or "img2img", as `filled_in` returns it.

    Pictures are decoded and stored with `add_input`, so this is not for the event loop.

    Raises:
        NotAvailable: it asks for a feature that this version lacks.
        UnknownScript: it names a script that there is not.
        InvalidRequest: forge_additional_modules or hr_additional_modules is no list of names, or
            a picture cannot be used.
        MissingPicture: img2img without init_images.
    """
    _refuse_what_is_missing(values)
    parameters = {row.name: _parameter(row, values) for row in fields_of(kind)}
    overrides = override_settings(values["override_settings"])
    return GenerationRequest(
        **pass_parameters(values, parameters),
        **given_pictures(values, kind, add_input),
        **given_references(values, add_input),
        overrides=overrides,
        control=_control_of(values, add_input),
        extensions=_extension_values(values, extensions),
        styles=tuple(name for name in values["styles"] or () if isinstance(name, str)),
        disable_extra_networks=values["disable_extra_networks"],
    )


def override_settings(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the overrides in our terms; the engine leaves out nulls and locked settings.

    Raises:
        InvalidRequest: forge_additional_modules is no list of names.
    """
    overrides = dict(values or {})
    unknown = [key for key in overrides if key not in OPTIONS]
    if unknown:
        log.warning("override_settings: not known here and without effect: %s", unknown)
    if modules := overrides.pop(MODULES, None):
        overrides[MODULES] = _named_modules(modules)
    return overrides


def _named_modules(modules: Any) -> list[str]:
    """Return the files that Forge's list of VAE and text encoders names."""
    if not isinstance(modules, list) or not all(isinstance(name, str) for name in modules):
        raise InvalidRequest(MODULES, modules, "a list of file names")
    return [name for name in modules if name not in _SAME_MODULES]


def _refuse_what_is_missing(values: Mapping[str, Any]) -> None:
    for row in EXTRAS:
        value = values.get(row.name)
        if row.missing and value and value != row.default and value not in row.off:
            raise NotAvailable(
                f"{row.name}: {row.missing} is not in this version; "
                f"leave it out or send {json.dumps(row.default)}"
            )


def _extension_values(
    values: Mapping[str, Any], extensions: Registry[Extension]
) -> dict[str, dict[str, Any]]:
    """Return what a payload gives extensions: by their names, or A1111's way as scripts."""
    found = values_of_extensions(values["infotext"] or "", extensions)
    name = values["script_name"]
    if name and name.casefold() != "none":
        if name not in extensions:
            raise UnknownScript("script_name", name)
        extension = extensions.get(name)
        found[extension.name] = _arguments(extension, values["script_args"])
    for title, sent in values["alwayson_scripts"].items():
        if title.strip().casefold() in _PAGE_SCRIPTS | CONTROL_TITLES | REFERENCE_TITLES:
            continue
        if title not in extensions:
            raise UnknownScript("alwayson_scripts", title)
        extension = extensions.get(title)
        if isinstance(extension, Script):
            # A1111's sentence.
            text = "Cannot have a selectable script in the always on scripts params"
            raise UnknownScript("alwayson_scripts", title, text)
        found[extension.name] = _arguments(extension, sent)
    return found


def _control_of(values: Mapping[str, Any], add_input: AddInput) -> tuple[ControlUnit, ...]:
    """Return the units that were sent, each filled in by what the infotext says of its number."""
    scripts: Mapping[str, Any] = values["alwayson_scripts"]
    told = control_values(parse_infotext(values["infotext"] or "").fields)
    named = [sent for title, sent in scripts.items() if title.strip().casefold() in CONTROL_TITLES]
    if len(named) < 2:
        return control_units(named[0] if named else [], add_input, told)
    return tuple(unit for sent in named for unit in control_units(sent, add_input))


def _arguments(extension: Extension, sent: Any) -> dict[str, Any]:
    """Return a script's arguments by name.

    A1111 takes them by position under "args"; a plain list and named values are taken too, and
    Forge's single dict in the list. Too many are cut off, missing ones keep their defaults.
    """
    arguments = sent.get("args", sent) if isinstance(sent, Mapping) else sent
    if isinstance(arguments, list) and len(arguments) == 1 and not extension.has_units:
        arguments = arguments[0] if isinstance(arguments[0], Mapping) else arguments
    if isinstance(arguments, Mapping):
        names: dict[str, str] = {}
        for field in extension.fields:
            names |= {field.label.casefold(): field.name, field.name.casefold(): field.name}
        return {
            names.get(str(key).casefold(), str(key)): value
            for key, value in arguments.items()
            if value is not None
        }
    if not isinstance(arguments, (list, tuple)):
        where = "script_args" if isinstance(extension, Script) else "alwayson_scripts"
        raise InvalidRequest(where, sent, "a list of arguments under 'args'")
    named = extension.values_of_arguments(arguments)
    return {name: value for name, value in named.items() if value is not None}


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
        known = known or (row.name == "hires" and request.hires)
        if known and row.api in values and row.api not in sent:
            values[row.api] = getattr(request, row.name)
    if request.hires_modules is not None and HIRES_MODULES in values and HIRES_MODULES not in sent:
        values[HIRES_MODULES] = list(request.hires_modules)
    if "sampler_index" in sent and "sampler_name" not in sent:
        values["sampler_name"] = None
    overrides = {key: value for key, value in request.overrides.items() if key != "sd_vae"}
    values["override_settings"] = overrides | (values["override_settings"] or {})
