"""The part of the engine that loads and unloads models outside of jobs, and says what is loaded.

`engine.Engine` inherits it and supplies the parts. What is asked for happens on the model thread,
between its jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

from sdforge.core.model_choice import ModelChoice
from sdforge.core.settings import SettingsStore
from sdforge.engine.resolution import Checkpoint, CheckpointLibrary, Resolver
from sdforge.engine.worker import Worker


class ModelAccess:
    """What the API and the page may do with models; methods may be called from any thread."""

    settings: SettingsStore
    library: CheckpointLibrary
    _resolver: Resolver
    _worker: Worker

    def preload(self, name: str = "") -> Future[None]:
        """Load a checkpoint ("": the configured one) before the next job; errors are recorded."""

        def find_title() -> str:
            if name:
                return self.library.find(name).title
            return self._resolver.configured(self.settings.current).title

        return self._worker.preload(find_title)

    def configured_checkpoint(self) -> Checkpoint:
        """Return the checkpoint that requests get which name none.

        Raises:
            MissingModel: there is none at all.
        """
        return self._resolver.configured(self.settings.current)

    def expect(self, choices: Sequence[ModelChoice]) -> None:
        """Say which models are in use and which later jobs will need, soonest first; () for none.

        Those in memory stay there, and the first other one is read while a job runs, as far as main
        memory has room. With () what was read and not used is given back.
        """
        self._worker.expect(choices)

    def unload(self, name: str = "", *, device_only: bool = False) -> Future[None]:
        """Give back the memory of all models ("") or of one before the next job.

        With `device_only` all leave the device and stay in main memory.

        Raises:
            UnknownName: there is no checkpoint of that name.
        """
        title = self.library.find(name).title if name else ""
        return self._worker.unload(title, device_only=device_only)

    def model_state(self) -> dict[str, Any]:
        """Return {"title", "loading", "fraction", "error"} of the loaded model."""
        return asdict(self._worker.model_state)

    def memory_report(self) -> dict[str, Any]:
        """Return who holds how many bytes; empty before anything was loaded."""
        return self._worker.memory_report()
