"""A sweep's pictures as one large picture: drawn at any time, saved when the sweep ends.

The first axis goes across, the second down, the third makes blocks side by side, further ones
rows of such blocks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sdforge.core.errors import InvalidRequest
from sdforge.core.paths import Paths
from sdforge.core.request import GenerationRequest
from sdforge.core.result import GenerationInfo, ModelIdentity
from sdforge.core.settings import write_atomically
from sdforge.output.images import encode_image
from sdforge.output.patterns import NameSource, folder_parts
from sdforge.output.sheet import Layout, draw_sheet
from sdforge.output.writer import next_number
from sdforge.sweeps.axis_table import NOTHING
from sdforge.sweeps.manifest import CellStatus, GridFile, Sweep

_MEGAPIXEL = 1_000_000
# What a WebP file can hold.
_WEBP_SIDE = 16383
_AXIS_LETTERS = "XYZ"
_NO_CELL = (512, 512)

Requests = Callable[[str, int], GenerationRequest]


def draw(sweep: Sweep, format: str = "png", block: int | None = None) -> bytes:
    """Return the large picture as a file; cells that are not there yet are grey.

    Args:
        sweep: as it stands.
        format: "png", "webp" or "jpg".
        block: one value of the third axis alone; None for all.

    Raises:
        InvalidRequest: there is no such block or format.
    """
    settings = sweep.manifest.settings
    text = infotext(sweep) if settings.enable_pnginfo else None
    return encode_image(
        pixels(sweep, format, block),
        format,
        infotext=text,
        quality=settings.jpeg_quality,
        lossless=settings.webp_lossless,
    )


def pixels(sweep: Sweep, format: str = "png", block: int | None = None) -> npt.NDArray[np.uint8]:
    """Return the large picture, uint8 (height, width, 3); see `draw`."""
    count = block_count(sweep)
    if block is not None and not 0 <= block < count:
        raise InvalidRequest("block", block, f"0 to {count - 1}")
    layout = _layout(sweep, block)
    start = (block or 0) * layout.block_size
    limit = sweep.manifest.settings.img_max_size_mp * _MEGAPIXEL

    def picture(number: int) -> npt.NDArray[np.uint8] | None:
        found = sweep.cell(start + number).pictures
        return _read(Path(found[0].path)) if found else None

    sides = {} if format == "png" else {"max_side": _WEBP_SIDE}
    return draw_sheet(layout, picture, max_pixels=int(limit), **sides)


def block_count(sweep: Sweep) -> int:
    """Return how many sub-grids there are."""
    return prod(sweep.manifest.shape[2:])


def infotext(sweep: Sweep) -> str:
    """Return what the large picture says of itself: its first cell's text and the axes."""
    first = next((one for i in range(len(sweep.cells)) for one in sweep.cell(i).pictures), None)
    values: dict[str, Any] = {"Script": sweep.manifest.title}
    varied = [line for line in sweep.manifest.lines if line.label != NOTHING]
    for number, line in enumerate(varied):
        letter = _AXIS_LETTERS[number] if number < len(_AXIS_LETTERS) else f"Axis {number + 1}"
        values[f"{letter} Type"] = line.label
        values[f"{letter} Values"] = line.typed or ", ".join(line.legends)
        if line.label in ("Seed", "Var. seed"):
            fixed = ", ".join(str(value) for value in line.values)
            values[f"Fixed {letter} Values"] = fixed
    said = ", ".join(f"{key}: {_quote(value)}" for key, value in values.items())
    return f"{first.infotext}, {said}" if first else said


def save_grid(sweep: Sweep, paths: Paths, requests: Requests) -> GridFile | None:
    """Draw and save the grid of a sweep that has ended, if that was wanted.

    Raises:
        StorageError: the disk is full or not writable.
    """
    manifest = sweep.manifest
    settings, options = manifest.settings, manifest.options
    drawn = [cell for cell in sweep.cells if cell.pictures]
    if not drawn or not options.draw_grid or not (settings.grid_save and manifest.save_images):
        return None
    sheet = pixels(sweep, settings.grid_format)
    data = encode_image(
        sheet,
        settings.grid_format,
        infotext=infotext(sweep) if settings.enable_pnginfo else None,
        quality=settings.jpeg_quality,
        lossless=settings.webp_lossless,
    )
    folder = paths.resolve_output(str(getattr(settings, f"outdir_{manifest.kind}_grids")))
    if settings.grid_save_to_dirs:
        source = _name_source(sweep, requests(sweep.id, drawn[0].index), sheet)
        pattern = settings.directories_filename_pattern or "[prompt_words]"
        folder = folder / folder_parts(pattern, source)
    path = _free_name(folder, drawn[0].pictures[0].seed, settings.grid_format.lower())
    write_atomically(path, data)
    return GridFile(path=str(path), width=sheet.shape[1], height=sheet.shape[0])


def _free_name(folder: Path, seed: int, extension: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    number = next_number(folder, "xyz_grid-")
    return folder / f"xyz_grid-{number:04}-{seed}.{extension}"


def _name_source(
    sweep: Sweep, request: GenerationRequest, sheet: npt.NDArray[np.uint8]
) -> NameSource:
    name = request.checkpoint.partition(" [")[0]
    info = GenerationInfo(
        request=request,
        index=0,
        seed=request.image_seed(0),
        subseed=request.image_subseed(0),
        prompt=request.image_prompt(0),
        negative_prompt=request.image_negative_prompt(0),
        model=ModelIdentity(title=request.checkpoint, name=Path(name).stem),
    )
    return NameSource(
        info=info,
        settings=sweep.manifest.settings,
        pixels=sheet,
        now=datetime.now().astimezone(),
        started_at=datetime.fromtimestamp(sweep.manifest.created_at or time.time()).astimezone(),
    )


def _layout(sweep: Sweep, block: int | None) -> Layout:
    manifest = sweep.manifest
    lines, shape = manifest.lines, manifest.shape
    columns = lines[0].legends if lines else ("",)
    rows = lines[1].legends if len(lines) > 1 else ("",)
    size = len(columns) * len(rows)
    titles = [
        ", ".join(text for text in manifest.legends(number * size)[2:] if text)
        for number in range(block_count(sweep))
    ]
    chosen = range(len(titles)) if block is None else [block]
    start = chosen[0] * size
    holes = {
        number: text
        for number in range(len(chosen) * size)
        if (text := hole_text(sweep, start + number))
    }
    return Layout(
        columns=columns,
        rows=rows,
        blocks=tuple(titles[number] for number in chosen),
        across=shape[2] if len(shape) > 2 and block is None else 1,
        cell=_cell_size(sweep),
        margin=manifest.options.margin_px,
        with_legends=manifest.options.draw_legend,
        holes=holes,
    )


def hole_text(sweep: Sweep, index: int) -> str:
    """Return what stands in the place of a picture, "" where there is one."""
    cell = sweep.cell(index)
    if cell.pictures:
        return "" if Path(cell.pictures[0].path).is_file() else "the picture's file is gone"
    words = {
        CellStatus.WAITING: "not drawn",
        CellStatus.RUNNING: "being drawn",
        CellStatus.DONE: "no picture",
        CellStatus.SKIPPED: "skipped",
        CellStatus.FAILED: "failed",
    }
    return cell.error.message if cell.error else words[cell.status]


def _cell_size(sweep: Sweep) -> tuple[int, int]:
    firsts = [cell.pictures[0] for cell in sweep.cells if cell.pictures]
    if not firsts:
        return _NO_CELL
    return max(one.width for one in firsts), max(one.height for one in firsts)


def _read(path: Path) -> npt.NDArray[np.uint8] | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError:
        return None


def _quote(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ',\n:"') else text
