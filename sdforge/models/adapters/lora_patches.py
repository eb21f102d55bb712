"""Adapters matched against a bundle, and the patches that they are with their multipliers.

`lora.py` does the matching. A set of patches is equal to another by its key, so that setting it
again costs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from sdforge.memory.component import PatchAmong
from sdforge.models.adapters.kinds import Kind
from sdforge.models.adapters.lora_file import LoraFile
from sdforge.models.adapters.lora_keys import Target, original_unet_name
from sdforge.models.adapters.network_use import NetworkUse
from sdforge.models.adapters.row_kinds import AmongRows, first_ranks
from sdforge.models.bundle import ModelBundle
from sdforge.models.hashes import Stamp


@dataclass(frozen=True, eq=False)
class Fitted:
    """A file matched against a bundle: what changes each parameter, by role and its name."""

    file: LoraFile
    stamp: Stamp
    changes: tuple[tuple[Target, str, str, Kind], ...]
    layers: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Change:
    """One adapter on one weight; equal when file, layer and multiplier are."""

    file: Stamp
    name: str
    multiplier: float
    rank: int | None
    kind: Kind = field(compare=False)
    beside: tuple[tuple[str, tuple[_Change, ...]], ...] = ()
    """Parameters whose rows it needs as well, and what changes these before it."""


@dataclass(frozen=True)
class LayerPatch(PatchAmong):
    """What several adapters make of a weight, one after the other."""

    changes: tuple[_Change, ...]

    @property
    def beside(self) -> tuple[str, ...]:
        """The parameters whose rows are needed as well."""
        return tuple(dict.fromkeys(name for one in self.changes for name, _ in one.beside))

    def __call__(
        self, weight: torch.Tensor, others: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Return the changed weight, in fp32 as it came."""
        for change in self.changes:
            kind = change.kind
            if change.beside and isinstance(kind, AmongRows):
                kind = kind.reading(partial(_whole, change, others or {}))
            weight = kind.apply(weight, change.multiplier)
        return weight


def _whole(
    change: _Change, others: Mapping[str, torch.Tensor], weight: torch.Tensor
) -> torch.Tensor:
    """Return all rows that a change needs, as those before it left them."""
    return torch.cat([LayerPatch(before)(others[name], others) for name, before in change.beside])


class NetworksOverSteps:
    """Networks whose weight changes while a pass goes on: sets the denoiser's patches by step."""

    def __init__(self, bundle: ModelBundle, used: Sequence[tuple[NetworkUse, Fitted]]) -> None:
        self._bundle = bundle
        self._used = tuple(used)
        self._now: tuple[list[NetworkUse], str] | None = None

    def set(self, step: int, steps: int) -> bool:
        """Put in force what holds when `step` of `steps` steps are done; say whether it is new.

        It counts from the component's next lease, or placing, on.
        """
        component = self._bundle.components["denoiser"]
        before = component.patch_key
        now = [use.at(step, steps) for use, _ in self._used]
        if self._now != (now, before):
            fits = (fit for _, fit in self._used)
            set_patches(self._bundle, list(zip(now, fits, strict=True)), roles=("denoiser",))
            self._now = (now, component.patch_key)
        return component.patch_key != before


def set_patches(
    bundle: ModelBundle,
    used: Sequence[tuple[NetworkUse, Fitted]],
    *,
    roles: Collection[str] | None = None,
) -> None:
    """Put networks in force on a bundle, or on the components of some roles alone."""
    changes: dict[str, dict[str, list[_Change]]] = {
        role: {} for role in bundle.components if roles is None or role in roles
    }
    original = original_unet_name(
        name.removesuffix(".weight")
        for name, _ in bundle.components["denoiser"].module.named_parameters()
        if name.endswith(".weight")
    )
    for use, fit in used:
        before: dict[tuple[str, ...], tuple[tuple[str, tuple[_Change, ...]], ...]] = {}
        for target, parameter, name, kind in fit.changes:
            if target.role not in changes:
                continue
            multiplier = use.multiplier(target.role, partial(original, target.layer))
            if multiplier == 0:
                continue
            cut = first_ranks(kind, use.dyn) if use.dyn else kind
            change = _Change(fit.stamp, name, multiplier, use.dyn, cut)
            known = changes[target.role]
            if isinstance(kind, AmongRows) and kind.reads_beside:
                # Told once for all parts of a matrix: the parts before are changed by then.
                found = tuple((one, tuple(known.get(one, ()))) for one in kind.parameters)
                change = replace(change, beside=before.setdefault(kind.parameters, found))
            known.setdefault(parameter, []).append(change)
    for role, by_parameter in changes.items():
        patches = {name: LayerPatch(tuple(row)) for name, row in by_parameter.items()}
        bundle.components[role].set_patches(patches, key=_key(patches))


def _key(patches: Mapping[str, LayerPatch]) -> str:
    """Return what a set of patches is equal by: files, layers and multipliers."""
    rows = sorted(
        f"{name}|{change.file.path}|{change.file.size}|{change.file.mtime_ns}|{change.name}|"
        f"{change.multiplier!r}|{change.rank}"
        for name, patch in patches.items()
        for change in patch.changes
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest() if rows else ""
