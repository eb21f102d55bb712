"""The part of the engine that answers questions on memory and checks settings against the device.

`engine.Engine` inherits it and supplies the parts; nothing here touches a job.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from sdforge.core.errors import SdforgeError
from sdforge.core.settings import Settings, SettingsStore
from sdforge.engine.preflight import CHECKED, Preflight
from sdforge.memory.monitor import MemoryMonitor


class MemoryAnswers(ABC):
    """What the API and the page may ask of the memory; methods may be called from any thread."""

    settings: SettingsStore
    _preflight: Preflight
    _monitor: MemoryMonitor

    @abstractmethod
    def _title_in_use(self, settings: Settings) -> str:
        """Return the title of the checkpoint that settings name; the engine knows."""

    def change_settings(self, values: Mapping[str, Any]) -> Settings:
        """Change settings, persist them, and return them; all or nothing.

        A new `forge_preset` brings its own inference memory unless that is given too.

        Raises:
            InvalidRequest: a value cannot be used, or the device cannot hold it.
            StorageError: the file could not be written.
        """
        changes = self._preflight.with_preset(values, self.settings.current)
        if CHECKED & changes.keys():
            self._preflight.check_settings(self.settings.current.with_overrides(changes).to_json())
        return self.settings.update(changes)

    def device_mib(self) -> int:
        """Return the memory of the device, or the main memory without one, in MiB."""
        return self._preflight.total_mib()

    def memory_history(self) -> list[dict[str, Any]]:
        """Return samples of who held how many bytes, one a second, and go on sampling a while."""
        return [sample.to_json() for sample in self._monitor.history()]

    def memory_now(self) -> dict[str, Any]:
        """Return who holds how many bytes now, on the device and on the host, and the process."""
        return self._monitor.now().to_json()

    def memory_mode(self) -> dict[str, Any]:
        """Return {"setting", "mode", "reason", "device", "total_bytes"} for the checkpoint in use.

        The mode is None when there is no checkpoint that could run.
        """
        settings, device = self.settings.current, self._preflight.machine().device
        facts = {
            "setting": settings.memory_mode,
            "device": device.name,
            "total_bytes": device.total_bytes,
            "is_accelerator": device.is_accelerator,
        }
        try:
            choice = self._preflight.mode_for(settings, self._title_in_use(settings))
        except SdforgeError as error:
            return facts | {"mode": None, "reason": error.message}
        return facts | {"mode": choice.mode, "reason": choice.reason}
