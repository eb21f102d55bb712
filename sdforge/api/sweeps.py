"""/api/v1/sweeps: grids over any number of axes, with a dry run, live events and single cells."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError

from sdforge.api.context import ApiContext
from sdforge.api.links import without_links
from sdforge.api.schemas import Img2ImgRequest, Txt2ImgRequest
from sdforge.api.sweep_schemas import SweepBody
from sdforge.api.translate import filled_in, generation_request
from sdforge.api.waiting import sweep_changes
from sdforge.core.errors import InvalidRequest, NotFound
from sdforge.output.images import MEDIA_TYPES
from sdforge.sweeps import report, sheets
from sdforge.sweeps.axis_table import axes
from sdforge.sweeps.manifest import Cell, Sweep
from sdforge.sweeps.request import SweepRequest
from sdforge.sweeps.scripts import SWEEP_SCRIPTS, find_script, sweep_request

HEARTBEAT_SECONDS = 15.0
# The page that comes with a sweep runs no script and loads nothing from elsewhere.
_PAGE_POLICY = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1/sweeps", tags=["sweeps"])
    _add_asking(routes, context)
    _add_changing(routes, context)
    _add_files(routes, context)
    return routes


def _add_asking(routes: APIRouter, context: ApiContext) -> None:
    sweeps = context.sweeps

    @routes.get("/axes")
    def list_axes(kind: Literal["txt2img", "img2img"] = "txt2img") -> list[dict[str, Any]]:
        """What can vary, in the order of A1111's and Forge's menus, with the values on offer."""
        return [
            {
                "index": index,
                "label": axis.label,
                "kind": axis.kind,
                "choices": axis.choices(sweeps.catalog) if axis.choices else None,
                "cost": axis.cost,
                "help": axis.help,
                "missing": axis.missing or None,
            }
            for index, axis in enumerate(axes(kind, sweeps.catalog))
        ]

    @routes.post("/dry-run")
    def dry_run(body: SweepBody) -> dict[str, Any]:
        """What a sweep would take: cells, model loads, time, disk, what will not work."""
        return sweeps.dry_run(_asked(context, body))

    @routes.post("", status_code=202)
    def submit(request: Request, body: SweepBody) -> dict[str, Any]:
        """Begin to draw a sweep; answers at once. Follow it with its events."""
        sweep = sweeps.submit(_asked(context, body), sweep_id=body.id, save_images=body.save_images)
        return describe_sweep(sweep, _root(request))

    @routes.get("")
    def list_sweeps(
        request: Request, limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> list[dict[str, Any]]:
        """Sweeps, newest first, without their cells."""
        return [
            describe_sweep(sweep, _root(request), with_cells=False)
            for sweep in sweeps.newest(limit)
        ]

    @routes.get("/{sweep_id}")
    def get_sweep(
        request: Request, sweep_id: str, after: Annotated[int, Query(ge=0)] = 0
    ) -> dict[str, Any]:
        """One sweep: axes, cells, pictures, errors; of the cells those changed since `after`."""
        return describe_sweep(sweeps.get(sweep_id), _root(request), after=after)

    @routes.get("/{sweep_id}/cells/{index}")
    def get_cell(request: Request, sweep_id: str, index: int) -> dict[str, Any]:
        """One cell, with the whole request that it draws."""
        sweep = sweeps.get(sweep_id)
        _check_cell(sweep, index)
        found = sweep.cell(index)
        drawn = None if found.is_broken else sweeps.request(sweep_id, index).to_json()
        cell = describe_cell(sweep, found, _root(request))
        return cell | {
            "legends": list(sweep.manifest.legends(index)),
            "infotexts": [one.infotext for one in sweep.cell(index).pictures],
            "request": drawn,
        }

    @routes.get("/{sweep_id}/events", response_class=StreamingResponse)
    def events(
        request: Request,
        sweep_id: str,
        after: Annotated[int, Query(ge=0)] = 0,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        """Server-sent events: what has changed since revision `after`, then every change.

        A client that comes back sends Last-Event-ID (browsers do). Ends when the sweep has ended.
        """
        sweeps.get(sweep_id)
        start = int(last_event_id) if last_event_id and last_event_id.isdecimal() else after
        stream = _event_stream(context, sweep_id, start, _root(request))
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


def _add_changing(routes: APIRouter, context: ApiContext) -> None:
    sweeps = context.sweeps

    def now(request: Request, sweep_id: str) -> dict[str, Any]:
        return describe_sweep(sweeps.get(sweep_id), _root(request), with_cells=False)

    @routes.post("/{sweep_id}/cancel")
    def cancel(request: Request, sweep_id: str) -> dict[str, Any]:
        """Draw nothing more; the grid is made of what there is."""
        sweeps.cancel(sweep_id)
        return now(request, sweep_id)

    @routes.post("/{sweep_id}/resume")
    def resume(request: Request, sweep_id: str) -> dict[str, Any]:
        """Go on with a cancelled sweep."""
        sweeps.resume(sweep_id)
        return now(request, sweep_id)

    @routes.post("/{sweep_id}/retry")
    def retry(request: Request, sweep_id: str) -> dict[str, Any]:
        """Draw all cells that failed or were skipped once more."""
        sweeps.retry(sweep_id)
        return now(request, sweep_id)

    @routes.post("/{sweep_id}/cells/{index}/retry")
    def retry_cell(request: Request, sweep_id: str, index: int) -> dict[str, Any]:
        """Draw one cell once more."""
        sweeps.retry(sweep_id, index)
        return now(request, sweep_id)

    @routes.post("/{sweep_id}/cells/{index}/skip")
    def skip_cell(request: Request, sweep_id: str, index: int) -> dict[str, Any]:
        """Leave one cell out, whether it waits or runs."""
        sweeps.skip(sweep_id, index)
        return now(request, sweep_id)

    @routes.post("/{sweep_id}/cells/{index}/first")
    def draw_first(request: Request, sweep_id: str, index: int) -> dict[str, Any]:
        """Draw a waiting cell before all others."""
        sweeps.draw_first(sweep_id, index)
        return now(request, sweep_id)


def _add_files(routes: APIRouter, context: ApiContext) -> None:
    sweeps = context.sweeps

    @routes.get("/{sweep_id}/cells/{index}/images/{number}", response_class=Response)
    def cell_image(sweep_id: str, index: int, number: int) -> Response:
        """A cell's picture as a file, with its infotext inside."""
        sweep = sweeps.get(sweep_id)
        _check_cell(sweep, index)
        pictures = sweep.cell(index).pictures
        if not 0 <= number < len(pictures):
            raise NotFound(f"cell {index} of {sweep_id} has {len(pictures)} pictures")
        try:
            data = Path(pictures[number].path).read_bytes()
        except OSError as error:
            raise NotFound(f"the file is gone: {error.strerror}") from error
        # A cell may be drawn again: its address then has another attempt in it.
        headers = {"Cache-Control": "private, max-age=86400"}
        return Response(data, media_type=pictures[number].media_type, headers=headers)

    @routes.get("/{sweep_id}/grid", response_class=Response)
    def grid(
        sweep_id: str,
        format: Literal["png", "webp", "jpg"] = "png",
        block: int | None = None,
    ) -> Response:
        """The large picture as it stands; `block` picks one value of the third axis."""
        data = sheets.draw(sweeps.get(sweep_id), format, block)
        headers = _attachment(f"{sweep_id}.{format}") | {"Cache-Control": "no-store"}
        return Response(data, media_type=MEDIA_TYPES[format], headers=headers)

    @routes.get("/{sweep_id}/table.csv", response_class=StreamingResponse)
    def table(sweep_id: str) -> StreamingResponse:
        """All cells with all parameters, as CSV."""
        lines = report.table(sweeps.get(sweep_id), sweeps.request)
        headers = _attachment(f"{sweep_id}.csv", "attachment")
        return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)

    @routes.get("/{sweep_id}/page", response_class=Response)
    def page(request: Request, sweep_id: str) -> Response:
        """All cells as a page to look through."""
        sweep, root = sweeps.get(sweep_id), _root(request)
        text = report.page(sweep, lambda index: _picture_url(sweep, sweep.cell(index), 0, root))
        headers = {"Content-Security-Policy": _PAGE_POLICY}
        return Response(text, media_type="text/html; charset=utf-8", headers=headers)


# --- bodies --------------------------------------------------------------------------------------


def _asked(context: ApiContext, body: SweepBody) -> SweepRequest:
    """Return a body as a sweep; pictures are decoded and stored, so not for the event loop."""
    engine = context.engine
    schema = Img2ImgRequest if body.kind == "img2img" else Txt2ImgRequest
    try:
        payload = schema.model_validate(body.request)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"request.{where}", first.get("input"), first["msg"]) from error
    values = without_links(filled_in(payload), engine.settings.current)
    base = generation_request(values, engine.extensions, kind=body.kind, add_input=engine.add_input)
    if body.script is None:
        asked = [axis.asked() for axis in body.axes]
        return SweepRequest(base=base, axes=asked, options=body.options.options())
    script = find_script(body.script)
    if script is None:
        titles = ", ".join(one.title for one in SWEEP_SCRIPTS)
        raise InvalidRequest("script", body.script, titles)
    limit = engine.settings.current.max_sweep_cells
    return sweep_request(script, body.script_args, base, context.sweeps.catalog, limit=limit)


def describe_sweep(
    sweep: Sweep, root: str = "", *, with_cells: bool = True, after: int = 0
) -> dict[str, Any]:
    """Return a sweep as JSON types.

    Args:
        sweep: as it stands.
        root: path under which the server is reached.
        with_cells: whether its cells are listed.
        after: only cells that changed since this revision; 0 for all.
    """
    manifest = sweep.manifest
    base = f"{root}/api/v1/sweeps/{quote(sweep.id)}"
    found: dict[str, Any] = {
        "id": sweep.id,
        "title": manifest.title,
        "kind": manifest.kind,
        "origin": manifest.origin,
        "status": sweep.status.value,
        "revision": sweep.revision,
        "created_at": manifest.created_at,
        "finished_at": sweep.finished_at,
        "shape": list(manifest.shape),
        "axes": [
            {
                "label": line.label,
                "typed": line.typed,
                "values": list(line.values),
                "legends": list(line.legends),
            }
            for line in manifest.lines
        ],
        "options": manifest.options.to_json(),
        "counts": sweep.counts(),
        "notices": list(manifest.notices),
        "grid": asdict(sweep.grid) if sweep.grid else None,
        "urls": {
            "grid": f"{base}/grid",
            "table": f"{base}/table.csv",
            "page": f"{base}/page",
            "events": f"{base}/events",
        },
    }
    if with_cells:
        found["cells"] = _changed_cells(sweep, after, root)
    return found


def describe_cell(sweep: Sweep, cell: Cell, root: str = "") -> dict[str, Any]:
    """Return a cell as JSON types, without what only its own route says."""
    return {
        "index": cell.index,
        "status": cell.status.value,
        "same_as": cell.same_as,
        "job": cell.job or None,
        "attempt": cell.attempt,
        "error": cell.error.message if cell.error else None,
        "seconds": cell.seconds,
        "images": [
            {
                "url": _picture_url(sweep, cell, number, root),
                "path": picture.path,
                "seed": picture.seed,
                "width": picture.width,
                "height": picture.height,
            }
            for number, picture in enumerate(cell.pictures)
        ],
    }


def _changed_cells(sweep: Sweep, after: int, root: str) -> list[dict[str, Any]]:
    cells = (sweep.cell(index) for index in range(len(sweep.cells)))
    return [describe_cell(sweep, one, root) for one in cells if one.revision > after or not after]


def _picture_url(sweep: Sweep, cell: Cell, number: int, root: str) -> str:
    place = f"{root}/api/v1/sweeps/{quote(sweep.id)}/cells/{cell.index}/images/{number}"
    return f"{place}?attempt={cell.attempt}"


def _check_cell(sweep: Sweep, index: int) -> None:
    if not 0 <= index < len(sweep.cells):
        raise NotFound(f"{sweep.id} has no cell {index}; it has {len(sweep.cells)}")


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", ""))


def _attachment(name: str, kind: str = "inline") -> dict[str, str]:
    return {"Content-Disposition": f'{kind}; filename="{quote(name)}"'}


async def _event_stream(
    context: ApiContext, sweep_id: str, after: int, root: str
) -> AsyncIterator[bytes]:
    # Told at once, so that the client sees the stream open before anything happens.
    yield b"retry: 2000\n\n"
    async for sweep in sweep_changes(context.sweeps, sweep_id, HEARTBEAT_SECONDS):
        if sweep is None:
            yield b": nothing new\n\n"
        elif sweep.revision > after or sweep.status.is_finished:
            data = await asyncio.to_thread(_changes, sweep, after, root)
            after = sweep.revision
            yield f"id: {after}\nevent: sweep\ndata: {data}\n\n".encode()
    yield b"event: end\ndata: {}\n\n"


def _changes(sweep: Sweep, after: int, root: str) -> str:
    """Return a sweep with those of its cells that changed after a revision."""
    found = {
        "id": sweep.id,
        "status": sweep.status.value,
        "revision": sweep.revision,
        "counts": sweep.counts(),
        "cells": _changed_cells(sweep, after, root),
    }
    return json.dumps(found, ensure_ascii=False)
