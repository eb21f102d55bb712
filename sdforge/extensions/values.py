"""Fields that many extensions have."""

from __future__ import annotations

from typing import Any

from sdforge.core.extension import DenoiseContext, Values
from sdforge.core.fields import Field

ENABLED = Field(name="enabled", kind=bool, default=False, label="Enable", api="enabled")


def number(
    name: str, default: float, low: float, high: float, label: str, help: str = "", **more: Any
) -> Field:
    """Return a slider from `low` to `high`; clients may not go beyond either."""
    return Field(
        name=name, kind=float, default=default, label=label, api=name, minimum=low, maximum=high,
        lowest=low, highest=high, step=more.pop("step", 0.01), help=help, **more,
    )  # fmt: skip


START = number("start", 0.0, 0.0, 1.0, "Start", "Share of the steps before it begins.")
END = number("end", 1.0, 0.0, 1.0, "End", "Share of the steps after which it stops.")


def is_within(context: DenoiseContext, sigma: float, values: Values) -> bool:
    """Tell whether `sigma` lies between the shares `start` and `end` of the pass."""
    return bool(values["start"] <= context.fraction(sigma) <= values["end"])
