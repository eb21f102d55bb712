"""What is known of a setting beside its value: its type, its limits, its place on a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sdforge.core.errors import InvalidRequest


@dataclass(frozen=True, kw_only=True)
class Option:
    """What is known of a setting beside its value. `locked` ones cannot be set over the API."""

    key: str
    kind: type
    default: Any
    label: str
    section: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    infotext: str | None = None
    locked: bool = False

    def coerce(self, value: Any) -> Any:
        """Return `value` as this option's type, as leniently as A1111's clients need.

        Whole floats pass for integers (clients post back the `1.0` that A1111 sends).

        Raises:
            InvalidRequest: naming the option and what it allows.
        """
        if value is None:
            return self.default
        converted = _convert(self.kind, value)
        if converted is None or not self._allows(converted):
            raise InvalidRequest(self.key, value, self.allowed())
        return converted

    def _allows(self, value: Any) -> bool:
        if self.choices is not None and value not in self.choices:
            return False
        if self.kind in (int, float):
            low_ok = self.minimum is None or value >= self.minimum
            return low_ok and (self.maximum is None or value <= self.maximum)
        return True

    def allowed(self) -> str:
        """Say in words what values are allowed."""
        if self.choices is not None:
            return ", ".join(map(repr, self.choices))
        words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        text = words.get(self.kind, f"a {self.kind.__name__}")
        if self.minimum is not None and self.maximum is not None:
            return f"{text} from {self.minimum:g} to {self.maximum:g}"
        if self.minimum is not None:
            return f"{text} of at least {self.minimum:g}"
        return text


def _convert(kind: type, value: Any) -> Any:
    """Return `value` converted to `kind`, or None when it cannot be."""
    if kind is bool:
        if isinstance(value, str):
            return {
                "true": True,
                "1": True,
                "on": True,
                "false": False,
                "0": False,
                "off": False,
            }.get(value.strip().casefold())
        return bool(value) if isinstance(value, (bool, int, float)) else None
    if kind in (int, float):
        if isinstance(value, bool):
            return kind(value)
        try:
            number = float(value)
        except (TypeError, ValueError):
            return None
        if number != number or number in (float("inf"), float("-inf")):
            return None
        if kind is int:
            return int(number) if number == int(number) else None
        return number
    if kind is str:
        return value if isinstance(value, str) else None
    if kind is tuple:
        is_names = isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)
        return tuple(value) if is_names else None
    return value if isinstance(value, kind) else None
