"""What every route needs: the engine, where things lie, and how the server was started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sdforge.core.paths import Paths
from sdforge.engine import Engine

if TYPE_CHECKING:
    from sdforge.models.library import Library


@dataclass(frozen=True)
class ApiContext:
    """Handed to the functions that make the routers. `flags` are command-line flags by name."""

    engine: Engine
    paths: Paths
    flags: Mapping[str, Any]
    version: str

    @property
    def library(self) -> Library:
        """The model files; the engine itself needs less of it than listings do."""
        return cast("Library", self.engine.library)
