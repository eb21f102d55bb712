"""Which extensions there are: those that ship and the files of the user's folder.

A file of the user's is Python that this program runs, so none is fetched and none comes from a
client: only what lies in the folder `extensions` of the data folder is loaded, and only when the
server starts.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdforge.core.extension import Extension
from sdforge.core.registry import Registry
from sdforge.extensions.builtin import BUILTIN
from sdforge.output.infotext import parse_infotext

log = logging.getLogger(__name__)


def load_extensions(
    folder: Path | None = None, *, builtin: Sequence[type[Extension]] = BUILTIN
) -> Registry[Extension]:
    """Return a new registry of all extensions.

    Args:
        folder: the user's; each file of it that does not begin with "_" may define some. One that
            fails to load is logged and left out.
        builtin: those that ship.
    """
    registry: Registry[Extension] = Registry("extension")
    for kind in builtin:
        _add(registry, kind)
    for path in sorted(folder.glob("[!_]*.py")) if folder and folder.is_dir() else ():
        try:
            for kind in _extensions_of(path):
                _add(registry, kind)
                log.info("extension %s from %s", kind.name, path.name)
        except Exception:
            # Whatever the user's file raises must not keep the server from starting.
            log.exception("the extension %s could not be loaded and is left out", path.name)
    return registry


def extensions_by_flags(flags: Mapping[str, Any], folder: Path) -> Registry[Extension]:
    """Return the extensions that the start-up flags leave; `folder` is the user's."""
    if flags["disable_all_extensions"]:
        return load_extensions(builtin=())
    return load_extensions(None if flags["disable_extra_extensions"] else folder)


def values_of_extensions(infotext: str, registry: Registry[Extension]) -> dict[str, dict[str, Any]]:
    """Return the values of extensions, by name, that a picture's infotext holds."""
    fields = parse_infotext(infotext).fields if infotext else {}
    found = ((one.name, one.values_from_infotext(fields)) for one in registry)
    return {name: values for name, values in found if values is not None}


def _add(registry: Registry[Extension], kind: type[Extension]) -> None:
    extension = kind()
    titles = dict.fromkeys((extension.label, *extension.aliases))
    registry.add(extension.name, extension, tuple(title for title in titles if title))


def _extensions_of(path: Path) -> Iterator[type[Extension]]:
    name = f"sdforge_extension_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for value in vars(module).values():
        if inspect.isclass(value) and issubclass(value, Extension) and value.__module__ == name:
            yield value
