"""What an axis is: a name, how its values are read and checked, and what one does to a request.

`axis_table.py` has the axes there are. A value is a JSON type; applying one returns a new request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from sdforge.core.errors import InvalidRequest, NotAvailable, UnknownName
from sdforge.core.extension import Extension
from sdforge.core.registry import Registry
from sdforge.core.request import GenerationRequest
from sdforge.sweeps import grammar

# A value of an axis, as JSON has it.
Value: TypeAlias = Any
Apply: TypeAlias = Callable[[GenerationRequest, Value, Sequence[Value]], GenerationRequest]

# How expensive a change is, A1111's figures: the costliest axis varies slowest.
COST_CHECKPOINT, COST_PRECISION, COST_VAE = 1.0, 0.9, 0.7


class Catalog(Protocol):
    """What there is to choose from on this server; the facade makes one of its engine."""

    @property
    def extensions(self) -> Registry[Extension]:
        """Extensions, whose fields are axes too."""

    def checkpoints(self) -> list[str]:
        """Names of all checkpoints."""

    def checkpoint(self, name: str) -> str:
        """Return the listed name of a checkpoint by any alias; raises `UnknownName`."""

    def vaes(self) -> list[str]:
        """Names of VAE files, "Automatic" and "None" first."""

    def styles(self) -> list[str]:
        """Names of styles."""

    def loras(self) -> list[str]:
        """Names of LoRA files."""

    def upscalers(self) -> list[str]:
        """Names of upscalers for hires fix."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Something of a request that can vary.

    Attributes:
        label: its name, A1111's where it has one.
        kind: how values are written: "int", "float", "text", "truth", "size" or "orders".
        apply: returns the request with a value; also gets all values of the axis.
        check: returns the one spelling of a value, or raises `InvalidRequest`; runs before
            anything is drawn.
        choices: what the page offers; None where values are typed.
        cost: how expensive a change is; the costliest axis varies slowest.
        only: the one kind of job that has it, "" for both.
        shows_label: whether a legend says the label too, as in "Seed: 1".
        phase: axes of higher phase are applied after those of lower.
        missing: why it cannot be used here, "" when it can.
        help: one sentence for the page.
    """

    label: str
    kind: str = "text"
    apply: Apply
    check: Callable[[Catalog, Value], Value] | None = None
    choices: Callable[[Catalog], list[str]] | None = None
    cost: float = 0.0
    only: str = ""
    shows_label: bool = True
    phase: int = 0
    missing: str = ""
    help: str = ""

    def values(self, catalog: Catalog, items: Sequence[str], limit: int) -> list[Value]:
        """Return the checked values that items of a list mean.

        Args:
            catalog: what there is.
            items: of the typed list, or picked from the choices.
            limit: most values that there may be.

        Raises:
            NotAvailable: this server lacks what the axis varies.
            InvalidRequest: naming the axis and the item that cannot be used.
        """
        if self.missing:
            raise NotAvailable(f"the axis {self.label!r} cannot be used: {self.missing}")
        found = self._read(items, limit)
        if len(found) > limit:
            raise InvalidRequest(self.label, f"{len(found)} values", f"at most {limit}")
        return [self._checked(catalog, value) for value in found]

    def legend(self, value: Value) -> str:
        """Return what the grid writes beside a value."""
        if value is None or self.label == "Nothing":
            return ""
        if self.cost == COST_CHECKPOINT:
            value = value.rpartition("/")[2] or "None"
        if isinstance(value, (list, tuple)):
            text = ("x" if self.kind == "size" else ", ").join(map(str, value))
        else:
            text = f"{value:.8g}" if isinstance(value, float) else str(value)
        return f"{self.label}: {text}" if self.shows_label else text

    def _read(self, items: Sequence[str], limit: int) -> list[Value]:
        if self.kind == "int":
            return list(grammar.whole_numbers(items, self.label, limit))
        if self.kind == "float":
            return list(grammar.decimal_numbers(items, self.label, limit))
        if self.kind == "truth":
            return [grammar.truth(item, self.label) for item in items]
        if self.kind == "size":
            return [list(grammar.size(item, self.label)) for item in items]
        if self.kind == "orders":
            return [list(order) for order in grammar.orders(items, self.label, limit)]
        return list(items)

    def _checked(self, catalog: Catalog, value: Value) -> Value:
        if self.check is not None:
            return self.check(catalog, value)
        if self.choices is not None and isinstance(value, str):
            return one_of(self.label, value, self.choices(catalog))
        return value


def one_of(axis: str, value: str, known: Sequence[str]) -> str:
    """Return the listed spelling of a value, whose case does not matter.

    Raises:
        UnknownName: it is not listed; close ones are named.
    """
    folded = value.strip().casefold()
    for name in known:
        if name.casefold() == folded:
            return name
    raise UnknownName(f"value of {axis}", value, known, axis)


def find_axis(axes: Sequence[Axis], name: object, field: str = "axis") -> Axis:
    """Return the axis of a label (case does not matter) or of a position in the list.

    None and "" are the axis "Nothing". Positions may come as text, "4".

    Raises:
        UnknownName: there is no such label.
        InvalidRequest: the position is beyond the list's end, or it is something else.
    """
    if name is None or name == "":
        name = 0
    if isinstance(name, str) and name.strip().lstrip("+-").isdecimal():
        name = int(name)
    if isinstance(name, float) and name == int(name):
        name = int(name)
    if isinstance(name, bool) or not isinstance(name, (int, str)):
        raise InvalidRequest(field, name, "a label of an axis, or its position in the list")
    if isinstance(name, int):
        if not 0 <= name < len(axes):
            allowed = f"0 to {len(axes) - 1}, or a label; script-info lists them"
            raise InvalidRequest(field, name, allowed)
        return axes[name]
    folded = name.strip().casefold()
    for axis in axes:
        if axis.label.casefold() == folded:
            return axis
    raise UnknownName("axis", name, [axis.label for axis in axes], field)
