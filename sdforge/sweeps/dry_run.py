"""What a sweep would take, before anything is drawn: cells, model loads, time, disk, what fits."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdforge.core.errors import SdforgeError
from sdforge.core.model_choice import ModelChoice
from sdforge.core.paths import Paths
from sdforge.core.request import GenerationRequest
from sdforge.engine import Engine, Job, JobStatus
from sdforge.engine.details import details_by
from sdforge.engine.prediction import DetailsOf, predict_seconds, telling
from sdforge.sweeps.cells import count_loads
from sdforge.sweeps.prepare import Prepared

# Looked through for times and file sizes.
_PAST_JOBS = 200
# Where nothing is known yet: a PNG takes about this much a pixel, a disk reads about this much.
_BYTES_PER_PIXEL = 1.25
_READ_BYTES_PER_SECOND = 500_000_000
_SIZED_FILES = 20


@dataclass(frozen=True)
class _Shape:
    """What the estimate of a cell depends on."""

    model: tuple[ModelChoice, ...]
    width: int
    height: int
    batch: int
    guided: bool
    mode: str


def dry_run(engine: Engine, prepared: Prepared, paths: Paths) -> dict[str, Any]:
    """Return the figures as JSON types; docs/sweeps.md explains them."""
    requests = prepared.requests
    drawn = [request for index in prepared.order if (request := requests[index]) is not None]
    models = [prepared.models[index] for index in prepared.order]
    needed = list(dict.fromkeys(model for one in models for model in one))
    room = prepared.settings.sd_checkpoints_limit
    loads = count_loads(models, room, _held(engine, needed))
    past = engine.jobs(statuses=(JobStatus.DONE,), limit=_PAST_JOBS)
    drawing = _drawing_seconds(drawn, past, details_by(engine.extensions))
    loading = sum(_load_seconds(engine, model.checkpoint, past) for model in needed[:loads])
    disk = sum(_pixels(one) * one.image_count for one in drawn) * _bytes_per_pixel(past)
    problems = _problems(engine, prepared)
    shape = prepared.expanded.shape
    return {
        "cells": len(requests),
        "to_draw": len(drawn),
        "equal": sum(same is not None for same in prepared.same_as),
        "pictures": sum(one.image_count for one in drawn),
        "shape": list(shape),
        "axes": [
            {"label": line.label, "values": list(line.values), "legends": list(line.legends)}
            for line in prepared.expanded.lines
        ],
        "checkpoints": len({model.checkpoint for model in needed}),
        "loads": loads,
        "seconds": None if drawing is None else round(drawing + loading, 1),
        "disk_bytes": int(disk),
        "disk_free_bytes": _free_bytes(paths.data),
        "fits": not problems,
        "problems": problems,
        "order": list(prepared.order),
        "notices": list(prepared.notices),
        "text": _sentence(len(requests), len(drawn), loads, drawing, loading, problems),
    }


def _sentence(
    cells: int,
    drawn: int,
    loads: int,
    drawing: float | None,
    loading: float,
    problems: Sequence[dict[str, Any]],
) -> str:
    parts = [f"{cells} cell{'s' * (cells != 1)}"]
    if drawn != cells:
        parts.append(f"{drawn} to draw")
    parts.append(f"{loads} model load{'s' * (loads != 1)}")
    if drawing is not None:
        parts.append(f"about {_spoken(drawing + loading)}")
    if problems:
        count = sum(len(problem["cells"]) for problem in problems)
        parts.append(f"{count} will not work: {problems[0]['reason']}")
    return ", ".join(parts)


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _held(engine: Engine, needed: Sequence[ModelChoice]) -> list[ModelChoice]:
    """Return the models that are in memory already, as far as the report tells them apart."""
    host = engine.memory_report().get("host") or {}
    titles = {str(one.get("title")) for one in host.get("checkpoints") or ()}
    return [model for model in needed if model.checkpoint.partition(" [")[0] in titles]


def _drawing_seconds(
    requests: Sequence[GenerationRequest], past: Sequence[Job], details_of: DetailsOf
) -> float | None:
    """Return the sum of what is known, stretched to those cells of which nothing is."""
    newest = telling(past, details_of)
    found = [predict_seconds(one, newest, details_of) for one in requests]
    known = [seconds for seconds in found if seconds is not None]
    if not known:
        return None
    return sum(known) * len(requests) / len(known)


def _load_seconds(engine: Engine, checkpoint: str, past: Sequence[Job]) -> float:
    measured = [
        job.timings.get("load", 0.0) for job in past if job.request.checkpoint == checkpoint
    ]
    if measured:
        return max(measured)
    try:
        path: Any = getattr(engine.library.find(checkpoint), "path", None)
        return float(Path(path).stat().st_size) / _READ_BYTES_PER_SECOND if path else 0.0
    except (SdforgeError, OSError):
        return 0.0


def _bytes_per_pixel(past: Sequence[Job]) -> float:
    pixels = size = 0
    files = [(Path(image.path), image) for job in past for image in job.images if image.path]
    for path, image in files[:_SIZED_FILES]:
        try:
            size += path.stat().st_size
            pixels += image.width * image.height
        except OSError:
            continue
    return size / pixels if pixels else _BYTES_PER_PIXEL


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _problems(engine: Engine, prepared: Prepared) -> list[dict[str, Any]]:
    """Return which cells cannot be drawn, by reason."""
    found: dict[str, list[int]] = {}
    known: dict[_Shape, str] = {}
    for index, request in enumerate(prepared.requests):
        error = prepared.errors[index]
        if error is not None:
            found.setdefault(error.message, []).append(index)
        if request is None or prepared.same_as[index] is not None:
            continue
        shape = _shape(request, prepared.models[index])
        if shape not in known:
            known[shape] = _does_not_fit(engine, request)
        if known[shape]:
            found.setdefault(known[shape], []).append(index)
    return [{"reason": reason, "cells": cells} for reason, cells in found.items()]


def _shape(request: GenerationRequest, models: tuple[ModelChoice, ...]) -> _Shape:
    width, height = request.final_size
    return _Shape(
        model=models,
        width=width,
        height=height,
        batch=request.batch_size,
        guided=request.cfg_scale != 1,
        mode=str(request.overrides.get("memory_mode", "")),
    )


def _does_not_fit(engine: Engine, request: GenerationRequest) -> str:
    try:
        figures = engine.estimate(request)
    except (SdforgeError, OSError):
        # A checkpoint whose file is read by nobody yet: the job itself will tell.
        return ""
    if figures["fits"]:
        return ""
    reasons = figures.get("reasons") or ["it needs more memory than there is"]
    return f"{request.checkpoint} at {request.width}x{request.height} does not fit: {reasons[0]}"


def _pixels(request: GenerationRequest) -> int:
    width, height = request.final_size
    return width * height
