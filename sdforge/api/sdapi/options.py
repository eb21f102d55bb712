"""GET and POST /sdapi/v1/options.

A POST is all or nothing. Clients send the whole reply of the GET back with one key changed, so what
is equal to the present value is left alone, whatever its number type. Settings that decide where
files go or how much a job may take are locked: they are ignored here, with a line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from sdforge.api.context import ApiContext
from sdforge.api.schemas import LenientDict
from sdforge.api.sdapi.foreign_options import FOREIGN_OPTIONS
from sdforge.api.translate import MODULES, override_settings
from sdforge.core.errors import InvalidRequest, ModelError, SdforgeError
from sdforge.core.settings import OPTIONS

log = logging.getLogger(__name__)

# Shown for clients that compare it with sd-models; follows from sd_model_checkpoint.
_READ_ONLY = "sd_checkpoint_hash"
_CHECKPOINT = "sd_model_checkpoint"
_VAE = "sd_vae"


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["options"])

    @routes.get("/options")
    def get_options() -> dict[str, Any]:
        """All settings with their values; those that A1111 and Forge have beyond ours, too."""
        return current_options(context)

    @routes.post("/options")
    def set_options(values: LenientDict) -> None:
        """Change settings, all or none, and keep them; unknown ones are stored without effect.

        A new sd_model_checkpoint starts to load at once; GET progress tells when it is ready.
        """
        change_options(context, values)

    return routes


def current_options(context: ApiContext) -> dict[str, Any]:
    """Return all settings; the checkpoint as the title of the one that will run."""
    settings = context.engine.settings.current
    values = FOREIGN_OPTIONS | settings.to_json()
    values |= {_READ_ONLY: ""}
    try:
        checkpoint = context.library.find(settings.sd_model_checkpoint)
    except SdforgeError:
        return values
    return values | {_CHECKPOINT: checkpoint.title, _READ_ONLY: checkpoint.sha256 or ""}


def change_options(context: ApiContext, values: Mapping[str, Any]) -> None:
    """Change settings as a client of the API may.

    Raises:
        InvalidRequest: a value cannot be used; nothing is changed.
        UnknownName: there is no such checkpoint; nothing is changed.
        ModelError: the checkpoint's file cannot serve; nothing is changed.
        StorageError: the settings could not be written; nothing is changed.
    """
    present = current_options(context)
    changes = {
        key: value
        for key, value in values.items()
        if key != _READ_ONLY and not (key in present and present[key] == value)
    }
    if MODULES in changes:
        changes[MODULES] = _known_modules(context, changes[MODULES])
    for key in [key for key in changes if key in OPTIONS and OPTIONS[key].locked]:
        log.warning("the setting %s cannot be changed over the API and is left alone", key)
        del changes[key]
    if changes.get(_CHECKPOINT):
        changes[_CHECKPOINT] = _known_title(context, changes[_CHECKPOINT])
        if changes[_CHECKPOINT] == present[_CHECKPOINT]:
            del changes[_CHECKPOINT]
    if changes.get(_VAE):
        _check_vae(context, changes[_VAE])
    if not changes:
        return
    for key in [key for key in changes if key not in OPTIONS and key not in FOREIGN_OPTIONS]:
        log.warning("the setting %r is not known here; it is stored but has no effect", key)
    context.engine.change_settings(changes)
    if _CHECKPOINT in changes:
        context.engine.preload()


def _known_title(context: ApiContext, name: Any) -> str:
    """Return the title of the checkpoint that `name` is an exact alias of."""
    if not isinstance(name, str):
        raise InvalidRequest(_CHECKPOINT, name, "name of a checkpoint")
    checkpoint = context.library.find(name, exact=True)
    if checkpoint.error is not None:
        raise ModelError(f"{_CHECKPOINT}: {checkpoint.error}")
    return checkpoint.title


def _known_modules(context: ApiContext, names: Any) -> list[str]:
    """Return the names of the files that Forge's list means; raises `UnknownName`."""
    sent = override_settings({MODULES: names}).get(MODULES, [])
    return [path.name for path in context.library.find_modules(sent)]


def _check_vae(context: ApiContext, name: Any) -> None:
    """Refuse a VAE that does not exist."""
    checkpoint = context.library.find(context.engine.settings.current.sd_model_checkpoint)
    context.library.find_vae(OPTIONS[_VAE].coerce(name), checkpoint)
