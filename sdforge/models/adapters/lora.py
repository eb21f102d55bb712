"""LoRA files put on a bundle: from names and multipliers to patches on its networks.

Model thread only. Weights stay as they are: `memory.Component` holds patches and applies them on
the way to where it computes, so taking a LoRA away costs nothing and leaves nothing behind.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from sdforge.core.errors import SdforgeError
from sdforge.memory.component import Component
from sdforge.models.adapters.embedding import Embedding, bundled_embedding
from sdforge.models.adapters.embedding_library import width_problem
from sdforge.models.adapters.kinds import Kind, Sum
from sdforge.models.adapters.lora_family import LABELS
from sdforge.models.adapters.lora_file import LoraFile, read_lora
from sdforge.models.adapters.lora_keys import KeyTable, Target, key_table
from sdforge.models.adapters.lora_library import LoraInfo, LoraLibrary
from sdforge.models.adapters.lora_patches import Fitted, NetworksOverSteps, set_patches
from sdforge.models.adapters.network_use import NetworkUse
from sdforge.models.adapters.row_kinds import AmongRows, HalvesSwapped, RowsOf
from sdforge.models.bundle import ModelBundle
from sdforge.models.hashes import Stamp
from sdforge.models.shift_first import ShiftFirst

log = logging.getLogger(__name__)

_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class AppliedLora:
    """A LoRA in force: what the prompt calls it, its file, and how many layers it changes."""

    mentioned: str
    info: LoraInfo
    layers: int


@dataclass(frozen=True, kw_only=True, eq=False)
class BundledEmbedding:
    """An embedding that came with a LoRA."""

    name: str
    lora: str
    stamp: Stamp
    embedding: Embedding


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What is in force on a bundle.

    Attributes:
        loras: in the order of their first mention.
        bundled: embeddings that these files bring along.
        notes: sentences about what was left out, for the user.
        missing: names that no file has.
        over_steps: sets patches by step; None where nothing changes while a pass goes on.
    """

    loras: tuple[AppliedLora, ...] = ()
    bundled: tuple[BundledEmbedding, ...] = ()
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    over_steps: NetworksOverSteps | None = None


class LoraPatcher:
    """Puts LoRA on bundles and keeps the files in force, and a few more, in memory."""

    def __init__(self, library: LoraLibrary) -> None:
        """Read nothing yet."""
        self._library = library
        self._files: OrderedDict[Stamp, LoraFile] = OrderedDict()
        self._bundle: ModelBundle | None = None
        self._table: KeyTable | None = None
        self._last: tuple[object, Applied] | None = None

    def apply(self, bundle: ModelBundle, uses: Sequence[NetworkUse], *, keep: int = 0) -> Applied:
        """Put these LoRA in force, in place of those that were; () for none.

        A LoRA that is missing, broken or of another family is left out and said so. Calling it
        again with the same uses and unchanged files changes nothing.

        Args:
            bundle: the loaded model.
            uses: in order; a name that comes again adds up.
            keep: files to keep in memory beyond those in force (A1111: lora_in_memory_limit).
        """
        if bundle is not self._bundle:
            self._leave_bundle()
            self._bundle = bundle
            layers = {role: _layers(part) for role, part in bundle.components.items()}
            layers.pop("vae", None)
            rows = {role: _rows(bundle.components[role]) for role in layers}
            modulations = _modulations(bundle.components["denoiser"])
            self._table = key_table(bundle.family, layers, rows, modulations)
        found, missing = self._find(uses)
        key = tuple((use, info.path, _stamp(info)) for use, info in found)
        if self._last is None or self._last[0] != (key, missing):
            applied = self._put(bundle, found, missing, keep)
            self._last = ((key, missing), applied)
        return self._last[1]

    def forget(self) -> None:
        """Drop files and everything that is known of the bundle."""
        self._leave_bundle()
        self._files.clear()

    def _leave_bundle(self) -> None:
        """Take patches off the bundle that is left: it may stay in memory, and come back."""
        bundle, self._bundle, self._last = self._bundle, None, None
        for component in bundle.components.values() if bundle is not None else ():
            if not component.is_released:
                component.set_patches({})

    @property
    def held_bytes(self) -> int:
        """Bytes of files in memory."""
        return sum(file.bytes for file in self._files.values())

    def _find(
        self, uses: Sequence[NetworkUse]
    ) -> tuple[list[tuple[NetworkUse, LoraInfo]], tuple[str, ...]]:
        found, missing = [], []
        for use in uses:
            info = self._library.find(use.name)
            if info is None:
                missing.append(use.name)
            else:
                found.append((use, info))
        return found, tuple(dict.fromkeys(missing))

    def _put(
        self,
        bundle: ModelBundle,
        found: Sequence[tuple[NetworkUse, LoraInfo]],
        missing: tuple[str, ...],
        keep: int,
    ) -> Applied:
        fitted: dict[str, Fitted] = {}
        notes = [self._missing_note(name) for name in missing]
        bundled: list[BundledEmbedding] = []
        infos = {str(info.path): info for _, info in found}
        mentioned = {str(info.path): use.name for use, info in reversed(found)}
        for path, info in infos.items():
            try:
                fitted[path] = self._fit(bundle, info)
            except SdforgeError as error:
                notes.append(f"the LoRA {info.name} was left out: {error.message}")
                continue
            notes += fitted[path].notes
            bundled += _bundled(bundle, info, fitted[path], notes)
        used = [(use, fitted[str(info.path)]) for use, info in found if str(info.path) in fitted]
        is_timed = any(use.over_steps is not None for use, _ in used)
        now = [(use.at(0, 1), fit) for use, fit in used]
        set_patches(bundle, now)
        self._trim([fit.stamp for _, fit in used], keep)
        for note in notes:
            log.warning("%s", note)
        return Applied(
            loras=tuple(
                AppliedLora(mentioned=mentioned[path], info=infos[path], layers=fit.layers)
                for path, fit in fitted.items()
            ),
            bundled=tuple(bundled),
            notes=tuple(notes),
            missing=missing,
            over_steps=NetworksOverSteps(bundle, used) if is_timed else None,
        )

    def _missing_note(self, name: str) -> str:
        close = self._library.closest(name)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        return f"there is no LoRA named {name!r}{hint}"

    def _fit(self, bundle: ModelBundle, info: LoraInfo) -> Fitted:
        """Match a file against the bundle.

        Raises:
            SdforgeError: it cannot be read, or is for another family of models.
        """
        stamp = _stamp(info)
        file = self._read(info, stamp)
        changes: list[tuple[Target, str, str, Kind]] = []
        unmatched = [*file.unknown, *(f"{name} ({why})" for name, why in file.broken.items())]
        layers = 0
        for name, change in file.layers.items():
            targets = self._table.find(name) if self._table is not None else ()
            if not targets:
                unmatched.append(name)
                continue
            layers += 1
            for part, kind in (("weight", change.weight), ("bias", change.bias)):
                if kind is not None:
                    changes += _on_rows(name, part, kind, targets)
        fitting = tuple(changes)
        self._check(bundle, info, file, fitting)
        notes: tuple[str, ...] = ()
        if unmatched:
            listed = ", ".join(unmatched[:_EXAMPLES])
            more = ", …" if len(unmatched) > _EXAMPLES else ""
            what = f"{len(unmatched)} of {layers + len(unmatched)} parts of the LoRA {info.name}"
            notes = (f"{what} belong to nothing in this model: {listed}{more}",)
        return Fitted(file, stamp, fitting, layers, notes)

    def _read(self, info: LoraInfo, stamp: Stamp) -> LoraFile:
        if stamp not in self._files:
            self._files[stamp] = read_lora(info.path)
        self._files.move_to_end(stamp)
        return self._files[stamp]

    def _check(
        self,
        bundle: ModelBundle,
        info: LoraInfo,
        file: LoraFile,
        changes: Iterable[tuple[Target, str, str, Kind]],
    ) -> None:
        """Raise `SdforgeError` when the file is not for this bundle."""
        found = list(changes)
        if not found and not file.bundled:
            raise SdforgeError(self._stranger(bundle, info, "none of its layers is in this model"))
        for target, parameter, name, kind in found:
            component = bundle.components[target.role]
            shape = _shape(component, parameter)
            if shape is None:
                raise SdforgeError(f"its {name} changes {parameter}, which this model has not")
            if not kind.fits(shape):
                reason = f"its {name} does not fit {parameter} of shape {list(shape)}"
                raise SdforgeError(self._stranger(bundle, info, reason))

    def _stranger(self, bundle: ModelBundle, info: LoraInfo, reason: str) -> str:
        ours = LABELS.get(bundle.family, bundle.family)
        if info.family is not None and not info.family.suits(bundle.family):
            return f"it is for {info.family.label} ({info.family.reason}), the model is {ours}"
        return f"it is for another model than this one ({ours}): {reason}"

    def _trim(self, in_force: Sequence[Stamp], keep: int) -> None:
        others = [stamp for stamp in self._files if stamp not in in_force]
        for stamp in others[: max(len(others) - keep, 0)]:
            del self._files[stamp]


def _bundled(
    bundle: ModelBundle, info: LoraInfo, fit: Fitted, notes: list[str]
) -> Iterator[BundledEmbedding]:
    """Yield the embeddings of a file that the model can use; say why others are left out."""
    for name, parts in fit.file.bundled.items():
        try:
            found = bundled_embedding(parts, name)
            problem = width_problem(found.widths, bundle.text.widths)
        except SdforgeError as error:
            problem = error.message
        if problem is None:
            yield BundledEmbedding(name=name, lora=info.name, stamp=fit.stamp, embedding=found)
        else:
            notes.append(f"the embedding {name} of the LoRA {info.name} was left out: {problem}")


def _stamp(info: LoraInfo) -> Stamp:
    try:
        return Stamp.of(info.path)
    except OSError:
        # Reading it will say what is wrong.
        return info.stamp


def _on_rows(
    name: str, part: str, kind: Kind, targets: Sequence[Target]
) -> Iterator[tuple[Target, str, str, Kind]]:
    """Yield what an adapter does to each of the layers that the file means by one name."""
    parameters = tuple(f"{target.layer}.{part}" for target in targets)
    for target, parameter in zip(targets, parameters, strict=True):
        fitting = kind
        if target.of_rows is not None:
            fitting = (
                RowsOf(kind, *target.of_rows)
                if isinstance(kind, Sum)
                else AmongRows(kind, *target.of_rows, parameters)
            )
        elif target.has_halves_swapped:
            fitting = HalvesSwapped(kind)
        yield target, parameter, name, fitting


def _layers(component: Component) -> list[str]:
    ends = ".weight"
    return [
        name.removesuffix(ends)
        for name, _ in component.module.named_parameters()
        if name.endswith(ends)
    ]


def _rows(component: Component) -> dict[str, int]:
    """Return how many rows the matrix of each linear layer has."""
    named = component.module.named_modules()
    return {name: part.out_features for name, part in named if isinstance(part, nn.Linear)}


def _modulations(component: Component) -> dict[str, bool]:
    """Return the layers that give a scale and a shift, and whether the shift comes first."""
    return {
        f"{name}.linear": isinstance(part, ShiftFirst)
        for name, part in component.module.named_modules()
        if isinstance(part, ShiftFirst) or type(part).__name__ == "AdaLayerNormContinuous"
    }


def _shape(component: Component, parameter: str) -> tuple[int, ...] | None:
    """Return the shape that a parameter is computed with, None where there is none."""
    owner, _, name = parameter.rpartition(".")
    if getattr(component.module.get_submodule(owner), name, None) is None:
        return None
    master = component.master(parameter)
    if master.decode is None:
        return tuple(master.stored.shape)
    # Packed numbers lie in any shape; on torch's meta device unpacking computes nothing.
    return tuple(master.decode(master.stored.to("meta")).shape)
