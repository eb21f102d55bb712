"""txt2img and img2img with a script that is a sweep: X/Y/Z plot, prompt matrix, prompts from file.

The call waits until the sweep has ended, and answers as A1111 does: the grid first, then parts of
it and single pictures if they were asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pybase64
from fastapi import Response

from sdforge.api.context import ApiContext
from sdforge.api.errors import error_response
from sdforge.api.generation_response import GenerationAnswer, echoed_parameters, generation_info
from sdforge.api.links import without_links
from sdforge.api.translate import generation_request
from sdforge.api.waiting import wait_sweep_ended
from sdforge.core.errors import StorageError
from sdforge.engine import Job, JobImage
from sdforge.output.infotext import parse_infotext
from sdforge.sweeps import sheets
from sdforge.sweeps.manifest import CellPicture, Sweep
from sdforge.sweeps.scripts import SweepScript, find_script, sweep_request

_GRID_INDEX = -1


def sweep_script_of(values: Mapping[str, Any]) -> SweepScript | None:
    """Return the script that a payload names, if it is a sweep."""
    return find_script(values.get("script_name"))


async def draw_sweep(
    context: ApiContext, values: dict[str, Any], kind: str, script: SweepScript
) -> Response:
    """Submit a sweep, wait for its end, answer.

    Raises:
        SdforgeError: as `Sweeps.submit` does.
    """
    sweep = await asyncio.to_thread(_submit, context, values, kind, script)
    sweep = await wait_sweep_ended(context.sweeps, sweep.id)
    response = await asyncio.to_thread(_answer, context, sweep, values)
    response.headers["X-Sweep-Id"] = sweep.id
    return response


def _submit(
    context: ApiContext, values: Mapping[str, Any], kind: str, script: SweepScript
) -> Sweep:
    engine, sweeps = context.engine, context.sweeps
    plain = {**without_links(values, engine.settings.current), "script_name": None}
    base = generation_request(plain, engine.extensions, kind=kind, add_input=engine.add_input)
    asked = sweep_request(
        script,
        values["script_args"] or [],
        base,
        sweeps.catalog,
        limit=engine.settings.current.max_sweep_cells,
    )
    return sweeps.submit(asked, save_images=bool(values["save_images"]))


def _answer(context: ApiContext, sweep: Sweep, values: Mapping[str, Any]) -> Response:
    """Return the answer to a sweep; draws and reads files, so not for the event loop."""
    if not sweep.status.is_finished:
        text = "the server is stopping; the sweep is kept and goes on when it starts again"
        return error_response(503, "ServerStopping", text)
    shown, pictures = _shown(sweep, with_images=bool(values["send_images"]))
    job = _as_job(context, sweep, shown)
    info = generation_info(context.engine, job, values)
    info |= _lists(shown)
    info["index_of_first_image"] = sum(image.index < 0 for image in shown)
    info["notices"] = _notices(sweep)
    encoded = [pybase64.b64encode(picture) for picture in pictures]
    return GenerationAnswer(encoded, echoed_parameters(values, job), info)


def _shown(sweep: Sweep, *, with_images: bool) -> tuple[list[JobImage], list[bytes]]:
    """Return the pictures of the answer in order, and their files."""
    images: list[JobImage] = []
    files: list[bytes] = []
    options = sweep.manifest.options
    if options.draw_grid and any(cell.pictures for cell in sweep.cells):
        grids: list[int | None] = [None]
        if options.include_sub_grids:
            grids += range(sheets.block_count(sweep))
        for block in grids:
            images.append(_grid_image(sweep))
            if with_images:
                format = sweep.manifest.settings.grid_format
                files.append(sheets.draw(sweep, format, block))
    if options.include_lone_images:
        for number, picture in enumerate(_lone(sweep)):
            images.append(_job_image(number, picture))
            if with_images:
                files.append(_file(picture))
    return images, files


def _lone(sweep: Sweep) -> Iterator[CellPicture]:
    """Yield each cell's first picture, or all where no grid makes a choice of them (A1111)."""
    is_list = not sweep.manifest.options.draw_grid or len(sweep.manifest.lines) == 1
    for index in range(len(sweep.cells)):
        pictures = sweep.cell(index).pictures
        yield from pictures if is_list else pictures[:1]


def _file(picture: CellPicture) -> bytes:
    try:
        return Path(picture.path).read_bytes()
    except OSError as error:
        raise StorageError(f"{picture.path} cannot be read: {error.strerror}") from error


def _grid_image(sweep: Sweep) -> JobImage:
    first = next(one for cell in sweep.cells for one in cell.pictures)
    return JobImage(
        index=_GRID_INDEX,
        path=None,
        media_type="image/png",
        infotext=sheets.infotext(sweep),
        seed=first.seed,
        width=first.width,
        height=first.height,
    )


def _job_image(number: int, picture: CellPicture) -> JobImage:
    return JobImage(
        index=number,
        path=picture.path,
        media_type=picture.media_type,
        infotext=picture.infotext,
        seed=picture.seed,
        width=picture.width,
        height=picture.height,
    )


def _as_job(context: ApiContext, sweep: Sweep, shown: list[JobImage]) -> Job:
    """Return a job that says of itself what A1111's `info` says of the first cell."""
    drawable = next(
        (cell.index for cell in sweep.cells if cell.error is None and cell.same_as is None), 0
    )
    request = context.sweeps.request(sweep.id, drawable)
    return Job(
        id=sweep.id,
        kind=sweep.manifest.kind,
        request=request,
        settings=sweep.manifest.settings.with_overrides(request.overrides),
        started_at=sweep.manifest.created_at,
        images=tuple(shown),
    )


def _lists(shown: list[JobImage]) -> dict[str, list[Any]]:
    texts = [parse_infotext(image.infotext) for image in shown]
    if not texts:
        return {}
    seeds = [int(text.fields.get("Variation seed", -1)) for text in texts]
    return {
        "all_prompts": [text.prompt for text in texts],
        "all_negative_prompts": [text.negative_prompt for text in texts],
        "all_seeds": [image.seed for image in shown],
        "all_subseeds": seeds,
    }


def _notices(sweep: Sweep) -> list[str]:
    holes = [
        f"cell {index + 1} ({', '.join(filter(None, sweep.manifest.legends(index)))}): "
        f"{sheets.hole_text(sweep, index)}"
        for index in range(len(sweep.cells))
        if not sweep.cell(index).pictures
    ]
    return [*sweep.manifest.notices, *holes]
