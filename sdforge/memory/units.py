"""Cut a network into units: the pieces that stream to the device by themselves.

A unit is a module whose forward is called and whose weights do not exceed a cap. What is left
beside the units is the root: it is small and always lies on the device. Which order units run in,
and how much arithmetic each does, is seen at the first run (`trace.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from sdforge.memory.arena import aligned_bytes
from sdforge.memory.budget import MIB
from sdforge.memory.component import Component, Master, PatchAmong
from sdforge.memory.interleave import UnitSize, stream_order

# Smaller units hide copies better, until the hooks' own time counts: simulated for SDXL and Flux.
CONVOLUTIONAL_CAP = 64 * MIB
TRANSFORMER_CAP = 128 * MIB
# Modules this much smaller than the cap stay on the device: a hook costs more than they do, and
# small tables (positions) are often read without calling their module.
ROOT_PART = 128

# Weights of 4 bits become 16 bits; and a patch makes an fp32 copy of one and a result.
DECODED_FACTOR = 4
PATCHED_FACTOR = 3


@dataclass(frozen=True, eq=False)
class Unit:
    """A module that streams as a whole, with all tensors below it."""

    index: int
    name: str
    module: nn.Module
    masters: tuple[Master, ...]

    @property
    def stored_bytes(self) -> int:
        """Bytes that travel, each tensor rounded up to where the next one may begin."""
        return sum(
            aligned_bytes(master.stored.shape, master.stored.dtype) for master in self.masters
        )


class UnitTree:
    """A component's units and root, and what runs have shown of their order and arithmetic."""

    def __init__(self, component: Component, cap_bytes: int | None = None) -> None:
        """Cut `component`; the cap depends on the kind of network unless it is given."""
        self.cap_bytes = unit_cap(component) if cap_bytes is None else cap_bytes
        self.units: tuple[Unit, ...] = ()
        owned: set[int] = set()
        named = _Names(component)
        for name, module in _split(component.module, named, self.cap_bytes):
            masters = named.below(name)
            self.units += (Unit(len(self.units), name, module, masters),)
            owned.update(master.index for master in masters)
        self.root = tuple(master for master in component.masters if master.index not in owned)
        self.root_bytes = sum(master.stored_bytes for master in self.root)
        self.is_traced = False
        self._set_order(tuple(range(len(self.units))), {})

    def learn(self, order: tuple[int, ...], flops: dict[int, int]) -> None:
        """Take the order in which units ran and what they computed; the others come last."""
        rest = tuple(index for index in range(len(self.units)) if index not in set(order))
        self.is_traced = True
        self._set_order((*order, *rest), flops)

    def cast_bytes(self, component: Component) -> int:
        """Estimate what the weights of one unit take that are decoded or patched as it runs."""
        return max((_cast_bytes(component, unit) for unit in self.units), default=0)

    def _set_order(self, order: tuple[int, ...], flops: dict[int, int]) -> None:
        self.order = order
        sizes = tuple(
            UnitSize(
                index=index,
                name=self.units[index].name,
                bytes=self.units[index].stored_bytes,
                flops=flops.get(index, 0),
            )
            for index in order
        )
        self.sizes = sizes
        self.stream_order = stream_order(sizes)


def _cast_bytes(component: Component, unit: Unit) -> int:
    size = 0
    for master in unit.masters:
        if master.decode is not None:
            size += _decoded_bytes(master)
        elif component.patch_of(master) is not None:
            size += master.stored_bytes * PATCHED_FACTOR
        patch = component.patch_of(master)
        for name in patch.beside if isinstance(patch, PatchAmong) else ():
            # Their numbers in fp32, what the adapter makes of them, and the rows beside each other.
            other = component.master(name)
            plain = 4 * other.stored.numel()
            size += (plain if other.decode is None else 2 * _decoded_bytes(other)) * PATCHED_FACTOR
    return size


def _decoded_bytes(master: Master) -> int:
    """Return what a packed weight takes while it is unpacked; a decoder may know it better."""
    growth = getattr(master.decode, "growth", DECODED_FACTOR)
    return math.ceil(master.stored_bytes * growth)


def unit_cap(component: Component) -> int:
    """Return the cap in bytes: 64 MiB for networks of convolutions, 128 MiB for transformers."""
    kernels = sum(
        module.weight.numel() * module.weight.element_size()
        for module in component.module.modules()
        if isinstance(module, nn.Conv2d)
    )
    return CONVOLUTIONAL_CAP if kernels * 10 >= component.total_bytes else TRANSFORMER_CAP


class _Names:
    """Which masters lie below a module, by its dotted name."""

    def __init__(self, component: Component) -> None:
        self._below: dict[str, dict[int, Master]] = {}
        for name, master in component.named_masters():
            parts = name.split(".")
            for length in range(len(parts)):
                place = ".".join(parts[:length])
                self._below.setdefault(place, {})[master.index] = master

    def below(self, name: str) -> tuple[Master, ...]:
        return tuple(self._below.get(name, {}).values())


def _split(module: nn.Module, names: _Names, cap: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield units of the children of `module`, which itself is never one.

    The network as a whole is entered by other ways than its forward (a VAE's encode and decode), so
    hooks on it would miss.
    """
    seen: set[int] = set()

    def descend(prefix: str, parent: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        for short, child in parent.named_children():
            name = f"{prefix}{short}"
            if id(child) in seen:
                continue
            seen.add(id(child))
            masters = names.below(name)
            size = sum(master.stored_bytes for master in masters)
            is_leaf = next(child.children(), None) is None
            if size <= cap // ROOT_PART and (is_leaf or _is_called(child)):
                continue
            if _is_called(child) and (size <= cap or is_leaf):
                yield name, child
            else:
                yield from descend(f"{name}.", child)

    yield from descend("", module)


def _is_called(module: nn.Module) -> bool:
    """Tell whether a module's forward runs: lists have none, and sequences are often walked."""
    if isinstance(module, nn.Sequential):
        return False
    return type(module).forward is not nn.Module.forward
