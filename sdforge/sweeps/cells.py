"""Axes → cells: every combination as a request, and the order that changes models least. Pure.

Cells are numbered with the first axis varying fastest, whatever order they are drawn in.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.core.model_choice import ModelChoice
from sdforge.core.request import GenerationRequest
from sdforge.sweeps.axis import Axis, Catalog, Value, find_axis
from sdforge.sweeps.axis_table import NOTHING, axes
from sdforge.sweeps.grammar import split_list
from sdforge.sweeps.request import AskedAxis, GivenCells, Options

_SEEDS = 2**32
_RANDOM_SEEDS = 4294967294  # A1111 draws from 0 to 4294967293
_SEED_LABELS = frozenset(("Seed", "Var. seed"))
# Rows that count in the second pass alone.
_HIRES = "hires"


@dataclass(frozen=True, kw_only=True)
class Line:
    """An axis of one sweep: its values as they are applied, written and shown.

    `typed` is what infotext says of it; `cost` how expensive a change of value is.
    """

    label: str
    values: tuple[Value, ...]
    legends: tuple[str, ...]
    typed: str = ""
    cost: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Expanded:
    """All cells of a sweep by number, not resolved yet, and the axes they lie along."""

    lines: tuple[Line, ...]
    requests: tuple[GenerationRequest, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """How many values each axis has, the fastest first."""
        return tuple(len(line.legends) for line in self.lines)


def coordinates(index: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Return a cell's place along each axis."""
    found = []
    for length in shape:
        found.append(index % length)
        index //= length
    return tuple(found)


def expand(
    base: GenerationRequest,
    asked: Sequence[AskedAxis],
    options: Options,
    catalog: Catalog,
    *,
    limit: int,
    rng: random.Random | None = None,
) -> Expanded:
    """Return the cells of a sweep.

    Args:
        base: the request to vary.
        asked: its axes; those that are "Nothing" stay, with one value.
        options: how seeds behave.
        catalog: what there is to choose from.
        limit: most cells that there may be.
        rng: source of random seeds.

    Raises:
        InvalidRequest: naming the axis and the value that cannot be used.
        NotAvailable: an axis varies what this version lacks.
    """
    rng = rng or random.Random()
    known = axes(base.kind, catalog)
    chosen = [(find_axis(known, one.axis), one) for one in asked]
    lines = [_line(axis, one, catalog, limit) for axis, one in chosen]
    count = prod(len(line.values) for line in lines)
    if count > limit:
        lengths = " × ".join(str(len(line.values)) for line in lines)
        raise InvalidRequest("axes", f"{lengths} = {count} cells", f"at most {limit} cells")
    if not options.keep_random:
        lines = [_with_fixed_seeds(line, rng) for line in lines]
        base = replace(
            base,
            seed=_fixed(base.seed, rng),
            subseed=_fixed(base.subseed, rng),
        )
    used = [axis for axis, _ in chosen]
    shape = [len(line.values) for line in lines]
    requests = tuple(
        _cell(base, used, lines, coordinates(index, shape), options) for index in range(count)
    )
    return Expanded(lines=tuple(lines), requests=requests)


def given(cells: GivenCells) -> Expanded:
    """Return cells that somebody made already.

    Raises:
        InvalidRequest: there are not as many as the axes have combinations.
    """
    lines = tuple(
        Line(label=label, values=legends, legends=legends) for label, legends in cells.axes
    )
    if prod(len(line.legends) for line in lines) != len(cells.requests):
        raise InvalidRequest("cells", len(cells.requests), "one for each combination of the axes")
    return Expanded(lines=lines, requests=cells.requests)


def _line(axis: Axis, asked: AskedAxis, catalog: Catalog, limit: int) -> Line:
    if axis.label == NOTHING:
        return Line(label=NOTHING, values=(None,), legends=("",))
    items = list(asked.picked) or split_list(asked.values, axis.label)
    values = axis.values(catalog, items, limit)
    if not values:
        raise InvalidRequest(axis.label, asked.values, "at least one value")
    return Line(
        label=axis.label,
        values=tuple(values),
        legends=tuple(axis.legend(value) for value in values),
        typed=asked.values or ", ".join(asked.picked),
        cost=axis.cost,
    )


def _with_fixed_seeds(line: Line, rng: random.Random) -> Line:
    if line.label not in _SEED_LABELS:
        return line
    values = tuple(_fixed(value, rng) for value in line.values)
    legends = tuple(f"{line.label}: {value}" for value in values)
    return replace(line, values=values, legends=legends)


def _fixed(seed: int, rng: random.Random) -> int:
    return seed if seed >= 0 else rng.randrange(_RANDOM_SEEDS)


def _cell(
    base: GenerationRequest,
    used: Sequence[Axis],
    lines: Sequence[Line],
    place: Sequence[int],
    options: Options,
) -> GenerationRequest:
    request = base
    for number in sorted(range(len(used)), key=lambda one: used[one].phase):
        axis, values = used[number], lines[number].values
        request = axis.apply(request, values[place[number]], values)
    shift, stride = 0, 1
    for number in sorted(set(options.vary_seeds)):
        if number < len(lines):
            shift += place[number] * stride
            stride *= len(lines[number].values)
    if shift and request.seed >= 0:
        request = replace(request, seed=(request.seed + shift) % _SEEDS)
    return request


# --- equal cells, and their order ----------------------------------------------------------------


def content_key(request: GenerationRequest) -> str:
    """Return what two resolved requests share exactly when they give the same pictures."""
    values = request.to_json()
    if not request.hires:
        values = {key: value for key, value in values.items() if not key.startswith(_HIRES)}
    if not request.subseed_strength:
        del values["subseed"]
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def models_of(request: GenerationRequest, settings: Mapping[str, Any]) -> tuple[ModelChoice, ...]:
    """Return the models that a resolved request needs, in the order in which it does."""
    merged = {**settings, **request.overrides}
    vae = str(merged.get("sd_vae", ""))
    storage = str(merged.get("forge_unet_storage_dtype", ""))
    modules = request.overrides.get("forge_additional_modules")
    own = None if modules is None else tuple(modules)
    needed = [(request.checkpoint, own), (request.refiner, own)]
    if request.hires:
        second = own if request.hires_modules is None else request.hires_modules
        needed.append((request.hires_checkpoint or request.checkpoint, second))
    found = (ModelChoice(name, vae, storage, of) for name, of in needed if name)
    return tuple(dict.fromkeys(found))


def drawing_order(
    shape: Sequence[int], costs: Sequence[float], models: Sequence[tuple[ModelChoice, ...]]
) -> list[int]:
    """Return the cells' numbers in the order in which they should be drawn.

    The costliest axis varies slowest, ties in favour of later axes (A1111). Costly axes go to and
    fro, so that the next round begins with the value that the last one ended with; at last all
    cells of one model are brought together, wherever they came from.

    Args:
        shape: how many values each axis has.
        costs: of each axis.
        models: of each cell, by number; () for one that will not be drawn.
    """
    nest = sorted(range(len(shape)), key=lambda axis: (-costs[axis], -axis))
    strides = [prod(shape[:axis]) for axis in range(len(shape))]
    order = list(_nested(nest, shape, costs, strides, base=0))
    if not shape:
        order = list(range(len(models)))
    groups: OrderedDict[tuple[ModelChoice, ...], list[int]] = OrderedDict()
    for index in order:
        groups.setdefault(models[index][:1], []).append(index)
    return _joined(list(groups.values()), models)


def _joined(groups: Sequence[list[int]], models: Sequence[tuple[ModelChoice, ...]]) -> list[int]:
    """Put groups after one another, each the way round whose start has more of the last end."""
    order: list[int] = []
    for group in groups:
        last = set(models[order[-1]]) if order else set()
        turned = len(last.intersection(models[group[-1]])) > len(
            last.intersection(models[group[0]])
        )
        order += reversed(group) if turned else group
    return order


def _nested(
    nest: Sequence[int],
    shape: Sequence[int],
    costs: Sequence[float],
    strides: Sequence[int],
    base: int,
) -> Iterator[int]:
    """Yield the numbers of a block; inner costly axes turn round at each step of the outer one."""
    if not nest:
        yield base
        return
    axis, *inner = nest
    for step in range(shape[axis]):
        block = list(_nested(inner, shape, costs, strides, base + step * strides[axis]))
        turns = step % 2 == 1 and bool(inner) and costs[inner[0]] > 0
        yield from reversed(block) if turns else block


def count_loads(
    models: Sequence[tuple[ModelChoice, ...]], room: int, held: Sequence[ModelChoice] = ()
) -> int:
    """Return how often a model is loaded when these are needed one after another.

    Args:
        models: of each cell, in drawing order.
        room: most models that stay in memory, the least recently used leaves.
        held: those that are in memory already, oldest first.
    """
    memory: OrderedDict[ModelChoice, None] = OrderedDict.fromkeys(held)
    loads = 0
    for needed in models:
        for model in needed:
            if model in memory:
                memory.move_to_end(model)
                continue
            loads += 1
            memory[model] = None
            while len(memory) > max(room, 1):
                memory.popitem(last=False)
    return loads
