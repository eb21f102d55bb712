"""Labelled contact sheets: pictures in rows and columns with legends beside them, in blocks.

A sheet is drawn from one picture at a time, so that its cells need not be in memory together. Cells
without a picture are grey and say why. Plain grids without legends are `grid.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image, ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

Pixels = npt.NDArray[np.uint8]

_INK, _PAPER, _HOLE, _HOLE_INK = (0, 0, 0), (255, 255, 255), (228, 228, 232), (120, 30, 30)
_SMALLEST_FONT = 9
# A1111's share of a cell for its text, and of the cell's width for the column of row legends.
_FONT_PART = 25
_SIDE_PART = 3 / 4
_LINE = 1.25


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a sheet looks like.

    Attributes:
        columns: legends above the columns; "" for one without.
        rows: legends beside the rows.
        blocks: titles of the blocks, each of which has all rows and columns.
        across: how many blocks stand side by side.
        cell: (width, height) of a cell in pixels.
        margin: free pixels between cells.
        with_legends: whether the texts are written.
        holes: what is written into cells without a picture, by number.
    """

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    blocks: tuple[str, ...] = ("",)
    across: int = 1
    cell: tuple[int, int]
    margin: int = 0
    with_legends: bool = True
    holes: Mapping[int, str] = field(default_factory=dict)

    @property
    def block_size(self) -> int:
        """Cells of one block."""
        return len(self.columns) * len(self.rows)


@dataclass(frozen=True)
class _Frame:
    """Where things lie, in pixels: of cells, of legends, of a block and of the sheet."""

    cell: tuple[int, int]
    margin: int
    font: int
    top: int
    left: int
    title: int
    block: tuple[int, int]
    sheet: tuple[int, int]


def draw_sheet(
    layout: Layout,
    picture: Callable[[int], Pixels | None],
    *,
    max_pixels: int,
    max_side: int = 2**31 - 1,
) -> Pixels:
    """Return a sheet, uint8 (height, width, 3).

    Args:
        layout: what it looks like.
        picture: returns a cell's picture by number (column + row × columns + block × its cells),
            None for a hole; asked once for each.
        max_pixels: of the whole sheet; cells are made smaller until it fits.
        max_side: the same for its longer side.
    """
    from PIL import Image, ImageDraw

    frame = _fitting(layout, max_pixels, max_side)
    sheet = Image.new("RGB", frame.sheet, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for block, title in enumerate(layout.blocks):
        left = block % layout.across * (frame.block[0] + layout.margin)
        top = block // layout.across * (frame.block[1] + layout.margin)
        _draw_block(sheet, draw, layout, frame, (left, top), block, title, picture)
    return np.asarray(sheet)


def _fitting(layout: Layout, max_pixels: int, max_side: int) -> _Frame:
    """Return the largest frame within the limits; cells shrink, by at least a pixel a time."""
    width, height = layout.cell
    scale = 1.0
    while True:
        cell = max(1, int(width * scale)), max(1, int(height * scale))
        frame = _frame(layout, cell, max(0, int(layout.margin * scale)))
        pixels, side = math.prod(frame.sheet), max(frame.sheet)
        if (pixels <= max_pixels and side <= max_side) or cell == (1, 1):
            return frame
        wanted = min(math.sqrt(max_pixels / pixels), max_side / side)
        scale *= min(wanted, 1 - 1 / max(cell))


def _frame(layout: Layout, cell: tuple[int, int], margin: int) -> _Frame:
    font = max(_SMALLEST_FONT, sum(cell) // _FONT_PART)
    line = math.ceil(font * _LINE)
    legends = layout.with_legends
    left = 0
    if legends and any(layout.rows):
        left = max(int(cell[0] * _SIDE_PART), 4 * font)
    heads = [_lines(text, font, cell[0]) for text in layout.columns] if legends else []
    top = (max((len(lines) for lines in heads), default=0) * line + line) if any(heads) else 0
    across, down = len(layout.columns), len(layout.rows)
    inner = (across * cell[0] + (across - 1) * margin, down * cell[1] + (down - 1) * margin)
    titles = [_lines(text, font, left + inner[0]) for text in layout.blocks] if legends else []
    title = (max((len(lines) for lines in titles), default=0) * line + line) if any(titles) else 0
    block = left + inner[0], title + top + inner[1]
    beside = min(layout.across, len(layout.blocks))
    below = math.ceil(len(layout.blocks) / layout.across)
    sheet = (
        beside * block[0] + (beside - 1) * layout.margin,
        below * block[1] + (below - 1) * layout.margin,
    )
    return _Frame(cell, margin, font, top, left, title, block, sheet)


def _draw_block(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    layout: Layout,
    frame: _Frame,
    corner: tuple[int, int],
    block: int,
    title: str,
    picture: Callable[[int], Pixels | None],
) -> None:
    left, top = corner
    width, height = frame.cell
    if frame.title:
        _write(draw, title, (left, top, frame.block[0], frame.title), frame.font, _INK)
    top += frame.title
    for column, legend in enumerate(layout.columns):
        x = left + frame.left + column * (width + frame.margin)
        if frame.top:
            _write(draw, legend, (x, top, width, frame.top), frame.font, _INK)
    for row, legend in enumerate(layout.rows):
        y = top + frame.top + row * (height + frame.margin)
        if frame.left:
            _write(draw, legend, (left, y, frame.left, height), frame.font, _INK)
        for column in range(len(layout.columns)):
            x = left + frame.left + column * (width + frame.margin)
            number = column + row * len(layout.columns) + block * layout.block_size
            _draw_cell(sheet, draw, layout, frame, (x, y), number, picture)


def _draw_cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    layout: Layout,
    frame: _Frame,
    corner: tuple[int, int],
    number: int,
    picture: Callable[[int], Pixels | None],
) -> None:
    from PIL import Image

    x, y = corner
    width, height = frame.cell
    pixels = None if number in layout.holes else picture(number)
    if pixels is None:
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=_HOLE)
        text = layout.holes.get(number, "")
        _write(draw, text, (x, y, width, height), max(_SMALLEST_FONT, frame.font // 2), _HOLE_INK)
        return
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if frame.cell != layout.cell:
        part = min(width / layout.cell[0], height / layout.cell[1])
        size = max(1, int(image.width * part)), max(1, int(image.height * part))
        image = image.resize(size, Image.Resampling.LANCZOS)
    sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))


def _write(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: tuple[int, int, int, int],
    size: int,
    ink: tuple[int, int, int],
) -> None:
    """Write a text into the middle of (left, top, width, height), smaller until it fits."""
    left, top, width, height = box
    lines = _lines(text, size, width)
    while size > _SMALLEST_FONT and (
        len(lines) * size * _LINE > height or _widest(lines, size) > width
    ):
        size -= 1
        lines = _lines(text, size, width)
    room = max(1, int(height / (size * _LINE)))
    if len(lines) > room:
        lines = [*lines[: room - 1], f"{lines[room - 1]}…"]
    font = _font(size)
    step = size * _LINE
    y = top + (height - step * len(lines)) / 2
    for line in lines:
        shown = _cut(line, size, width)
        draw.text((left + (width - _width(shown, size)) / 2, y), shown, fill=ink, font=font)
        y += step


def _cut(line: str, size: int, width: int) -> str:
    if _width(line, size) <= width:
        return line
    while line and _width(f"{line}…", size) > width:
        line = line[:-1]
    return f"{line}…"


def _lines(text: str, size: int, width: int) -> list[str]:
    """Return a text in lines that are no wider than `width`."""
    lines: list[str] = []
    for word in _pieces(text, size, width):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _pieces(text: str, size: int, width: int) -> list[str]:
    """Return the words of a text; those that no line has room for, file names mostly, are cut."""
    pieces = []
    for word in text.split():
        while len(word) > 1 and _width(word, size) > width:
            count = max(1, int(len(word) * width / _width(word, size)))
            pieces.append(word[:count])
            word = word[count:]
        pieces.append(word)
    return pieces


def _widest(lines: Sequence[str], size: int) -> float:
    return max((_width(line, size) for line in lines), default=0.0)


def _width(text: str, size: int) -> float:
    return float(_font(size).getlength(text))


@lru_cache(maxsize=64)
def _font(size: int) -> Font:
    """Return Pillow's own typeface; making one takes milliseconds."""
    from PIL import ImageFont

    return ImageFont.load_default(size)
