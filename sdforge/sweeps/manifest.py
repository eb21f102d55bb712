"""A sweep as it was accepted, and where its cells stand; plain data that survives on disk."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from sdforge.core.model_choice import ModelChoice
from sdforge.core.settings import Settings
from sdforge.engine import JobError
from sdforge.sweeps.cells import Line, coordinates
from sdforge.sweeps.request import Options

_ID_CHARACTERS = string.ascii_lowercase + string.digits
_ID_LENGTH = 12


class SweepStatus(StrEnum):
    """Where a sweep stands; CANCELLED ones can go on, DONE ones may have holes."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will be drawn unless somebody asks for it."""
        return self is not SweepStatus.RUNNING


class CellStatus(StrEnum):
    """Where a cell stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"

    @property
    def is_settled(self) -> bool:
        """Whether nothing more will happen to the cell of its own accord."""
        return self not in (CellStatus.WAITING, CellStatus.RUNNING)


@dataclass(frozen=True, kw_only=True)
class CellPicture:
    """One picture of a cell: its file, and what it says of itself. Sizes are in pixels."""

    path: str
    media_type: str
    infotext: str
    seed: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell. `same_as` is the number of the equal cell whose pictures it shows.

    `job` is the id of its newest job, `attempt` counts them; `seconds` is what drawing took.
    `revision` is the sweep's when the cell last changed.
    """

    index: int
    same_as: int | None = None
    status: CellStatus = CellStatus.WAITING
    job: str = ""
    attempt: int = 0
    error: JobError | None = None
    pictures: tuple[CellPicture, ...] = ()
    seconds: float = 0.0
    revision: int = 0

    @property
    def is_broken(self) -> bool:
        """Whether it could not be drawn from the start and so has no request."""
        return self.error is not None and not self.job

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; `from_json` is the inverse."""
        values = asdict(self)
        del values["index"], values["same_as"]
        return values | {"status": self.status.value}

    @classmethod
    def from_json(cls, index: int, same_as: int | None, values: Mapping[str, Any]) -> Cell:
        """Read what `to_json` returned."""
        error = values.get("error")
        known = {row.name for row in fields(cls)}
        kept = {key: value for key, value in values.items() if key in known}
        return cls(
            **kept
            | {
                "index": index,
                "same_as": same_as,
                "status": CellStatus(values["status"]),
                "error": JobError(**error) if error else None,
                "pictures": tuple(CellPicture(**one) for one in values.get("pictures", ())),
            }
        )


@dataclass(frozen=True, kw_only=True)
class GridFile:
    """The large picture that was saved; `path` is None when it was not to be."""

    path: str | None
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One accepted sweep: everything but its cells' requests, which the store keeps beside it.

    Attributes:
        id: unique; also the folder of its files.
        title: what made it: "X/Y/Z plot", "Prompt matrix"…
        kind: of its jobs, "txt2img" or "img2img".
        origin: "ui" or "api".
        lines: its axes.
        options: see there.
        settings: the snapshot that all cells run with.
        save_images: whether the cells' pictures and the grid go to the output folders.
        models: what each cell needs in memory, by number.
        inputs: SHA-256 of the input pictures that the cells need.
        notices: sentences about what went otherwise than asked.
    """

    id: str
    title: str
    kind: str
    origin: str = "api"
    created_at: float = 0.0
    lines: tuple[Line, ...] = ()
    options: Options = field(default_factory=Options)
    settings: Settings = field(default_factory=Settings)
    save_images: bool = True
    models: tuple[tuple[ModelChoice, ...], ...] = ()
    inputs: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """How many values each axis has, the fastest first."""
        return tuple(len(line.legends) for line in self.lines)

    def legends(self, index: int) -> tuple[str, ...]:
        """Return what the axes say of a cell."""
        places = coordinates(index, self.shape)
        return tuple(line.legends[at] for line, at in zip(self.lines, places, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; `from_json` is the inverse."""
        kinds: dict[tuple[ModelChoice, ...], int] = {}
        used = [kinds.setdefault(models, len(kinds)) for models in self.models]
        values = {row.name: getattr(self, row.name) for row in fields(self)}
        return values | {
            "lines": [asdict(line) for line in self.lines],
            "options": self.options.to_json(),
            "settings": self.settings.to_json(),
            # Few kinds, many cells.
            "models": {"kinds": [[asdict(one) for one in kind] for kind in kinds], "used": used},
            "inputs": list(self.inputs),
            "notices": list(self.notices),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], settings: Settings) -> Manifest:
        """Read what `to_json` returned; the settings come parsed."""
        said = values["models"]["kinds"]
        kinds = [tuple(ModelChoice.from_json(one) for one in kind) for kind in said]
        known = {row.name for row in fields(cls)}
        kept = {key: value for key, value in values.items() if key in known}
        return cls(
            **kept
            | {
                "lines": tuple(_line(line) for line in values["lines"]),
                "options": Options.from_json(values["options"]),
                "settings": settings,
                "models": tuple(kinds[number] for number in values["models"]["used"]),
                "inputs": tuple(values["inputs"]),
                "notices": tuple(values["notices"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A snapshot of a sweep: the manifest, its cells by number, and where it stands.

    `revision` grows with every change. `grid` is the large picture once it is drawn.
    """

    manifest: Manifest
    cells: tuple[Cell, ...]
    status: SweepStatus = SweepStatus.RUNNING
    revision: int = 0
    finished_at: float | None = None
    grid: GridFile | None = None

    @property
    def id(self) -> str:
        """The manifest's id."""
        return self.manifest.id

    def cell(self, index: int) -> Cell:
        """Return a cell; one that equals another has that one's state."""
        cell = self.cells[index]
        if cell.same_as is None:
            return cell
        return replace(self.cells[cell.same_as], index=index, same_as=cell.same_as)

    def counts(self) -> dict[str, int]:
        """Return how many cells stand where."""
        found = dict.fromkeys((status.value for status in CellStatus), 0)
        for index in range(len(self.cells)):
            found[self.cell(index).status.value] += 1
        return found


def new_sweep_id() -> str:
    """Return a random id."""
    return "sweep-" + "".join(random.SystemRandom().choices(_ID_CHARACTERS, k=_ID_LENGTH))


def job_id(sweep: str, index: int, attempt: int) -> str:
    """Return the id of a cell's job: the same after a crash, so that none is drawn twice."""
    return f"task({sweep}-{index}-{attempt})"


def _line(values: Mapping[str, Any]) -> Line:
    return Line(
        label=values["label"],
        values=tuple(values["values"]),
        legends=tuple(values["legends"]),
        typed=values["typed"],
        cost=values["cost"],
    )
