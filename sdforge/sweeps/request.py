"""What somebody asks for: a request, the axes to vary it along, and what to make of the pictures.

The page, `/api/v1/sweeps` and A1111's script arguments all become a `SweepRequest`; so do prompt
matrices and lists of prompts, which bring their cells themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.core.request import GenerationRequest

MAX_MARGIN = 500
# Legends, margins and numbers of more axes than this are no grid that anybody can read.
MAX_AXES = 8


@dataclass(frozen=True, kw_only=True)
class AskedAxis:
    """One axis as it was asked for.

    `axis` is a label or a position in the list of axes. `picked` are values chosen from a list;
    they count where there are any, else what was typed in `values` does.
    """

    axis: str | int | None = None
    values: str = ""
    picked: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Options:
    """What else there is to say of a sweep. A1111's names are in `docs/sweeps.md`.

    Attributes:
        draw_grid: make the large picture at the end.
        draw_legend: write values beside it.
        include_lone_images: answer with the cells' pictures too.
        include_sub_grids: answer with one grid for each value of the third axis too.
        keep_random: cells whose seed is −1 get one each, instead of one for all.
        vary_seeds: numbers of the axes, from 0, along which the seed counts up.
        margin_px: free pixels between cells.
    """

    draw_grid: bool = True
    draw_legend: bool = True
    include_lone_images: bool = False
    include_sub_grids: bool = False
    keep_random: bool = False
    vary_seeds: tuple[int, ...] = ()
    margin_px: int = 0

    def __post_init__(self) -> None:
        """Raise `InvalidRequest` for a margin that cannot be drawn."""
        if not 0 <= self.margin_px <= MAX_MARGIN:
            raise InvalidRequest("margin_size", self.margin_px, f"0 to {MAX_MARGIN} pixels")

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; `from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Options:
        """Read what `to_json` returned, of this or another version."""
        known = {row.name for row in fields(cls)}
        kept = {key: value for key, value in values.items() if key in known}
        return cls(**{**kept, "vary_seeds": tuple(kept.get("vary_seeds") or ())})


@dataclass(frozen=True, kw_only=True)
class GivenCells:
    """Cells that somebody made already, with the axes they lie along.

    Attributes:
        axes: (label, legends) of each axis; the first varies fastest.
        requests: one for each combination.
    """

    axes: tuple[tuple[str, tuple[str, ...]], ...]
    requests: tuple[GenerationRequest, ...]


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """A sweep as it was asked for; `cells` replaces `axes` where there are such."""

    base: GenerationRequest
    axes: Sequence[AskedAxis] = ()
    options: Options = field(default_factory=Options)
    title: str = "X/Y/Z plot"
    cells: GivenCells | None = None

    def __post_init__(self) -> None:
        """Raise `InvalidRequest` for more axes than there may be."""
        if len(self.axes) > MAX_AXES:
            raise InvalidRequest("axes", len(self.axes), f"at most {MAX_AXES}")
