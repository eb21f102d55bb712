"""A picture that a client sent, as requests hold it: a name by content, never the pixels.

The bytes lie in a folder of the engine (`engine.inputs`); so requests stay small and frozen, and a
queued job finds its pictures again after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class InputImage:
    """A stored picture: SHA-256 of its file in hex, and its size in pixels as it is shown."""

    sha256: str
    width: int
    height: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; `from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> InputImage:
        """Build it from `to_json`'s result."""
        return cls(str(values["sha256"]), int(values["width"]), int(values["height"]))
