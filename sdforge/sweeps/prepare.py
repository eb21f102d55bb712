"""From what was asked to cells that can be drawn: resolved, equal ones found, put into order.

Everything that is wrong with a value is said here, before anything is drawn; a checkpoint that
cannot run is the one thing that only costs its own cells.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from sdforge.core.errors import InvalidRequest, ModelError
from sdforge.core.model_choice import ModelChoice
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import Settings
from sdforge.engine import Engine, JobError
from sdforge.sweeps.catalog import EngineCatalog
from sdforge.sweeps.cells import (
    Expanded,
    content_key,
    drawing_order,
    expand,
    given,
    models_of,
)
from sdforge.sweeps.manifest import Cell, CellStatus, Manifest, Sweep, SweepStatus
from sdforge.sweeps.request import SweepRequest


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A sweep that could run now.

    Attributes:
        expanded: its axes.
        requests: what each cell draws, resolved; None for a broken one.
        errors: why a cell cannot be drawn.
        same_as: the number of the first equal cell, None for that cell itself.
        models: what each cell needs in memory.
        order: numbers of the cells to draw, equal and broken ones left out.
        settings: the snapshot that all run with.
        notices: sentences about axes that change nothing.
    """

    expanded: Expanded
    requests: tuple[GenerationRequest | None, ...]
    errors: tuple[JobError | None, ...]
    same_as: tuple[int | None, ...]
    models: tuple[tuple[ModelChoice, ...], ...]
    order: tuple[int, ...]
    settings: Settings
    notices: tuple[str, ...]


def prepare(engine: Engine, asked: SweepRequest) -> Prepared:
    """Return the cells of a sweep.

    Raises:
        InvalidRequest: an axis or a value cannot be used; it is named.
        NotAvailable: an axis varies what this version lacks.
        ModelError: no cell can be drawn.
    """
    settings = engine.settings.current
    limit = settings.max_sweep_cells
    if asked.cells is not None:
        expanded = given(asked.cells)
    else:
        catalog = EngineCatalog(engine)
        expanded = expand(asked.base, asked.axes, asked.options, catalog, limit=limit)
    if len(expanded.requests) > limit:
        raise InvalidRequest("cells", len(expanded.requests), f"at most {limit} (max_sweep_cells)")
    requests, errors = _resolved(engine, expanded.requests, settings)
    first: dict[str, int] = {}
    keys = [None if request is None else content_key(request) for request in requests]
    same_as = [
        None if key is None or first.setdefault(key, index) == index else first[key]
        for index, key in enumerate(keys)
    ]
    known = settings.to_json()
    models = [() if one is None else models_of(one, known) for one in requests]
    order = drawing_order(expanded.shape, [line.cost for line in expanded.lines], models)
    return Prepared(
        expanded=expanded,
        requests=tuple(requests),
        errors=tuple(errors),
        same_as=tuple(same_as),
        models=tuple(models),
        order=tuple(i for i in order if same_as[i] is None and requests[i] is not None),
        settings=settings,
        notices=tuple(_idle_axes(expanded, keys)),
    )


def _resolved(
    engine: Engine, asked: Sequence[GenerationRequest], settings: Settings
) -> tuple[list[GenerationRequest | None], list[JobError | None]]:
    requests: list[GenerationRequest | None] = []
    errors: list[JobError | None] = []
    failure: ModelError | None = None
    for request in asked:
        try:
            requests.append(engine.resolve(request, settings)[0])
            errors.append(None)
        except ModelError as error:
            failure = error
            requests.append(None)
            errors.append(JobError.of(error))
    if failure is not None and not any(requests):
        raise failure
    return requests, errors


def _idle_axes(expanded: Expanded, keys: Sequence[str | None]) -> list[str]:
    """Say which axes have several values that all mean the same request."""
    notices, shape = [], expanded.shape
    for number, line in enumerate(expanded.lines):
        stride = prod(shape[:number])
        starts = [i for i in range(len(keys)) if i // stride % shape[number] == 0]
        moves = range(shape[number])
        if shape[number] > 1 and all(
            len({keys[start + step * stride] for step in moves}) == 1 for start in starts
        ):
            notices.append(f"{line.label} changes nothing here: all its values give one picture")
    return notices


def new_sweep(
    asked: SweepRequest, prepared: Prepared, sweep_id: str, origin: str, save_images: bool
) -> Sweep:
    """Return a sweep as it is accepted; broken cells have failed already."""
    manifest = Manifest(
        id=sweep_id,
        title=asked.title,
        kind=asked.base.kind,
        origin=origin,
        created_at=time.time(),
        lines=prepared.expanded.lines,
        options=asked.options,
        settings=prepared.settings,
        save_images=save_images,
        models=prepared.models,
        inputs=tuple(
            {image.sha256: None for one in prepared.requests if one for image in one.inputs}
        ),
        notices=prepared.notices,
    )
    cells = tuple(
        Cell(
            index=index,
            same_as=same_as,
            status=CellStatus.FAILED if error else CellStatus.WAITING,
            error=error,
        )
        for index, (same_as, error) in enumerate(
            zip(prepared.same_as, prepared.errors, strict=True)
        )
    )
    return Sweep(manifest=manifest, cells=cells, status=SweepStatus.RUNNING)
