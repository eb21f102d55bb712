"""What every route needs: the engine, where things lie, and how the server was started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from sdforge.core.paths import Paths
from sdforge.engine import Engine
from sdforge.engine.downloads import Downloads
from sdforge.sweeps.sweeps import Sweeps

if TYPE_CHECKING:
    from sdforge.models.library import Library


def _nothing() -> None:
    """Stand in for what only a launched server can do."""


@dataclass(frozen=True, kw_only=True)
class ServerControl:
    """Ends of the process, as `--api-server-stop` offers them.

    `stop` lets the running job end at its next step, `kill` asks nobody. `restart` stops too and
    leaves word for the script that started the server; it is None when there is no such script.
    """

    stop: Callable[[], None] = _nothing
    kill: Callable[[], None] = _nothing
    restart: Callable[[], None] | None = None
    startup_seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ApiContext:
    """Handed to the functions that make the routers. `flags` are command-line flags by name."""

    engine: Engine
    paths: Paths
    flags: Mapping[str, Any]
    version: str
    sweeps: Sweeps
    downloads: Downloads
    control: ServerControl = field(default_factory=ServerControl)

    @property
    def library(self) -> Library:
        """The model files; the engine itself needs less of it than listings do."""
        return cast("Library", self.engine.library)
