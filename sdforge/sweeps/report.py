"""A sweep as a table (CSV, all parameters of every cell) and as a page (HTML) to look through."""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from sdforge.core.errors import StorageError
from sdforge.core.request import GenerationRequest
from sdforge.sweeps.axis_table import NOTHING
from sdforge.sweeps.manifest import Sweep
from sdforge.sweeps.sheets import block_count, hole_text

# A cell that begins so is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Requests = Callable[[str, int], GenerationRequest]


def table(sweep: Sweep, requests: Requests) -> Iterator[str]:
    """Yield the lines of a CSV file: one for each cell, with every parameter of its request."""
    lines = [line for line in sweep.manifest.lines if line.label != NOTHING]
    heads = ["cell", *(line.label for line in lines), "status", "same_as", "error", "seconds"]
    heads += ["file", "seed"]
    parameters = list(GenerationRequest().to_json())
    taken = set(heads)
    names = [name for name in parameters if name not in taken]
    yield _csv_line([*heads, *names, "infotext"])
    for index in range(len(sweep.cells)):
        cell = sweep.cell(index)
        legends = [
            text
            for text, line in zip(sweep.manifest.legends(index), sweep.manifest.lines, strict=True)
            if line.label != NOTHING
        ]
        try:
            request = requests(sweep.id, index).to_json()
        except StorageError:
            # Broken from the start: nothing was resolved.
            request = {}
        first = cell.pictures[0] if cell.pictures else None
        yield _csv_line(
            [
                index,
                *legends,
                cell.status.value,
                "" if cell.same_as is None else cell.same_as,
                cell.error.message if cell.error else "",
                cell.seconds,
                first.path if first else "",
                first.seed if first else "",
                *(request.get(name, "") for name in names),
                first.infotext if first else "",
            ]
        )


def _csv_line(values: list[Any]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow([_csv_text(value) for value in values])
    return out.getvalue()


def _csv_text(value: Any) -> str:
    if isinstance(value, (int, float)):
        return str(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.startswith(_FORMULA) else text


def page(sweep: Sweep, picture_url: Callable[[int], str]) -> str:
    """Return an HTML page of all cells: legends stay in sight, a click enlarges a picture.

    Args:
        sweep: as it stands.
        picture_url: returns the address of a cell's picture.
    """
    manifest = sweep.manifest
    # Without axes there is one cell.
    size = math.prod(manifest.shape[:2])
    blocks = "".join(
        _block(sweep, block * size, picture_url) for block in range(block_count(sweep))
    )
    axes = "".join(
        f"<li><b>{_text(line.label)}</b> {_text(line.typed or ', '.join(line.legends))}</li>"
        for line in manifest.lines
        if line.label != NOTHING
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">'
        f"<title>{_text(manifest.title)} {_text(sweep.id)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{_text(manifest.title)}</h1><ul>{axes}</ul>{blocks}</body></html>"
    )


def _block(sweep: Sweep, start: int, picture_url: Callable[[int], str]) -> str:
    lines = sweep.manifest.lines
    columns = lines[0].legends if lines else ("",)
    rows = lines[1].legends if len(lines) > 1 else ("",)
    title = ", ".join(text for text in sweep.manifest.legends(start)[2:] if text)
    heads = "".join(f'<th scope="col">{_text(text)}</th>' for text in columns)
    body = []
    for row, legend in enumerate(rows):
        cells = "".join(
            _cell(sweep, start + row * len(columns) + column, picture_url)
            for column in range(len(columns))
        )
        body.append(f'<tr><th scope="row">{_text(legend)}</th>{cells}</tr>')
    caption = f"<caption>{_text(title)}</caption>" if title else ""
    return f"<table>{caption}<tr><th></th>{heads}</tr>{''.join(body)}</table>"


def _cell(sweep: Sweep, index: int, picture_url: Callable[[int], str]) -> str:
    hole = hole_text(sweep, index)
    if hole:
        return f'<td class="hole">{_text(hole)}</td>'
    first = sweep.cell(index).pictures[0]
    said = " · ".join(text for text in sweep.manifest.legends(index) if text)
    # Focus enlarges: no script is needed, and none has to be trusted.
    return (
        f'<td tabindex="0"><img loading="lazy" src="{_text(picture_url(index))}" '
        f'alt="{_text(said)}" title="{_text(first.infotext)}" '
        f'width="{first.width}" height="{first.height}"></td>'
    )


def _text(text: str) -> str:
    return html.escape(text, quote=True)


_STYLE = """
body{font:15px system-ui,sans-serif;margin:1.5rem;color:#1a1a1e;background:#fff}
table{border-collapse:separate;border-spacing:4px;margin:1.5rem 0}
caption{font-weight:600;text-align:left;padding:.5rem 0}
th{font-weight:500;padding:4px 8px;max-width:16rem;overflow-wrap:anywhere}
tr:first-child th{position:sticky;top:0;background:#fffe}
th[scope=row]{position:sticky;left:0;background:#fffe}
td{padding:0;min-width:6rem;max-width:min(20rem,40vw)}
td img{display:block;max-width:100%;height:auto;cursor:zoom-in}
td:focus img{position:fixed;inset:0;margin:auto;max-width:96vw;max-height:96vh;width:auto;
 z-index:2;outline:100vmax solid #000c;cursor:zoom-out}
td.hole{background:#e4e4e8;color:#781e1e;padding:1rem;text-align:center;font-size:13px}
@media(prefers-color-scheme:dark){body{background:#17171a;color:#eee}
 tr:first-child th,th[scope=row]{background:#17171aee}td.hole{background:#2a2a30;color:#f0a0a0}}
"""
