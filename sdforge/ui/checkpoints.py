"""The checkpoints as the page shows them: which is the current one, and what a list offers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from sdforge.core.errors import SdforgeError
from sdforge.core.request import Recommended

if TYPE_CHECKING:
    from sdforge.engine import Engine
    from sdforge.models.library import CheckpointInfo, Library

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """New choices of a dropdown as (label, value) pairs, and the chosen value or values."""

    options: tuple[tuple[str, str], ...]
    value: str | list[str] | None


class Checkpoints:
    """The checkpoints of one engine."""

    def __init__(self, engine: Engine) -> None:
        """Take the engine whose they are."""
        self._engine = engine
        # The engine knows only what it needs of it; the page shows more.
        self.library = cast("Library", engine.library)

    def current(self) -> CheckpointInfo | None:
        """Return the one that jobs run with; None where there is none at all."""
        name = self._engine.settings.current.sd_model_checkpoint
        return (self.find(name) if name else None) or self._named("")

    def recommended(self) -> Recommended:
        """Return what the current one recommends."""
        current = self.current()
        return current.recommended if current else Recommended()

    def find(self, name: str) -> CheckpointInfo | None:
        """Return the one of a name; None for "" and for a name that none has."""
        return self._named(name) if name else None

    def options(self) -> tuple[tuple[str, str], ...]:
        """Return all as (label, value)."""
        return tuple((info.title, info.relative) for info in self.library.checkpoints())

    def choice(self) -> Choice:
        """Return all, with the current one chosen."""
        current = self.current()
        return Choice(self.options(), current.relative if current else None)

    def _named(self, name: str) -> CheckpointInfo | None:
        try:
            return self.library.find(name)
        except SdforgeError as error:
            log.debug("no checkpoint %r: %s", name, error)
        return None
