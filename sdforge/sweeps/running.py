"""One sweep in memory while its cells are drawn: what changes, in which order cells come.

Not safe for several threads by itself: `sweeps.py` holds its lock around every call.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.engine import JobError
from sdforge.sweeps.manifest import (
    Cell,
    CellPicture,
    CellStatus,
    GridFile,
    Manifest,
    Sweep,
    SweepStatus,
    job_id,
)
from sdforge.sweeps.store import SweepStore


class RunningSweep:
    """A sweep that changes; every change is written to the store by `save`."""

    def __init__(self, sweep: Sweep, waiting: Sequence[int]) -> None:
        """Take up a sweep as the store has it; `waiting` are cells to draw, in order."""
        self.manifest: Manifest = sweep.manifest
        self.waiting: deque[int] = deque(waiting)
        self.status = sweep.status
        self._cells = list(sweep.cells)
        self._revision = sweep.revision
        self._finished_at = sweep.finished_at
        self._grid = sweep.grid
        self._running = {cell.index for cell in sweep.cells if cell.status is CellStatus.RUNNING}
        self._changed: set[int] = set()
        self._is_reordered = False
        self._is_ended = sweep.status.is_finished

    @property
    def id(self) -> str:
        """The manifest's id."""
        return self.manifest.id

    @property
    def revision(self) -> int:
        """Grows with every change."""
        return self._revision

    @property
    def running(self) -> list[Cell]:
        """The cells whose jobs are in the queue or run."""
        return [self._cells[index] for index in sorted(self._running)]

    @property
    def must_end(self) -> bool:
        """Whether nothing is left to draw and the end has not been recorded yet."""
        stopped = self.status is not SweepStatus.RUNNING
        return not self._is_ended and not self._running and (stopped or not self.waiting)

    @property
    def is_ended(self) -> bool:
        """Whether the end has been recorded and nothing was asked of the sweep since."""
        return self._is_ended

    def snapshot(self) -> Sweep:
        """Return where it stands."""
        return Sweep(
            manifest=self.manifest,
            cells=tuple(self._cells),
            status=self.status,
            revision=self._revision,
            finished_at=self._finished_at,
            grid=self._grid,
        )

    def save(self, store: SweepStore) -> None:
        """Write what changed; raises `StorageError`, and then it is written the next time."""
        changed = [self._cells[index] for index in sorted(self._changed)]
        store.update(self.snapshot(), changed, list(self.waiting) if self._is_reordered else None)
        self._changed.clear()
        self._is_reordered = False

    @property
    def is_dirty(self) -> bool:
        """Whether there is something to save."""
        return bool(self._changed) or self._is_reordered

    # --- what cells go through -----------------------------------------------------------------

    def begin(self, index: int) -> str:
        """Mark a cell as running and return the id of its job."""
        self.waiting.remove(index)
        cell = self._cells[index]
        job = job_id(self.id, index, cell.attempt)
        self._running.add(index)
        self._change(index, status=CellStatus.RUNNING, job=job, error=None, pictures=())
        return job

    def put_back(self, index: int, *, again: bool = False) -> None:
        """Let a cell wait once more, before all others; `again` with another job."""
        self._running.discard(index)
        attempt = self._cells[index].attempt + again
        self._change(index, status=CellStatus.WAITING, attempt=attempt, job="")
        self.waiting.appendleft(index)
        self._is_reordered = True

    def settle(
        self,
        index: int,
        status: CellStatus,
        *,
        pictures: Sequence[CellPicture] = (),
        error: JobError | None = None,
        seconds: float = 0.0,
    ) -> None:
        """End a cell that ran."""
        self._running.discard(index)
        self._change(
            index, status=status, pictures=tuple(pictures), error=error, seconds=round(seconds, 3)
        )

    def touch(self) -> None:
        """Make a new revision without a change of cells."""
        self._revision += 1
        self._is_reordered = True

    # --- what people ask for -------------------------------------------------------------------

    def skip(self, index: int) -> str | None:
        """Leave a cell out; return the id of the job to cancel if it runs already."""
        cell = self._cells[self._own(index)]
        if cell.status is CellStatus.RUNNING:
            return cell.job
        if cell.status is CellStatus.WAITING and cell.index in self.waiting:
            self.waiting.remove(cell.index)
            self._change(cell.index, status=CellStatus.SKIPPED)
        return None

    def draw_first(self, index: int) -> None:
        """Draw a waiting cell before all others."""
        own = self._own(index)
        if own in self.waiting:
            self.waiting.remove(own)
            self.waiting.appendleft(own)
            self.touch()

    def retry(self, index: int | None) -> None:
        """Draw a settled cell once more, or (None) all that have no picture.

        Raises:
            InvalidRequest: the cell waits or runs.
        """
        if index is not None:
            cell = self._cells[self._own(index)]
            if not cell.status.is_settled:
                raise InvalidRequest("cell", index, "one that is not waiting or running")
            chosen = [cell]
        else:
            holes = (CellStatus.FAILED, CellStatus.SKIPPED)
            own = [cell for cell in self._cells if cell.same_as is None and not cell.is_broken]
            chosen = [cell for cell in own if cell.status in holes]
            if not chosen:
                return
        for cell in reversed(chosen):
            self.put_back(cell.index, again=True)
        self.resume()

    def resume(self) -> None:
        """Go on with what waits."""
        self.status, self._is_ended = SweepStatus.RUNNING, False
        self._finished_at, self._grid = None, None
        self.touch()

    def cancel(self) -> list[str]:
        """Draw nothing more; return the ids of jobs to cancel."""
        self.status = SweepStatus.CANCELLED
        self._finished_at = time.time()
        self.touch()
        return [cell.job for cell in self.running]

    def finish(self, grid: GridFile | None) -> None:
        """Record the end, and the large picture if there is one."""
        if self.status is SweepStatus.RUNNING:
            self.status = SweepStatus.DONE
        self._finished_at, self._grid = time.time(), grid
        self._is_ended = True
        self.touch()

    def check_cell(self, index: int) -> None:
        """Raise `InvalidRequest` unless there is a cell of this number."""
        if not 0 <= index < len(self._cells):
            raise InvalidRequest("cell", index, f"0 to {len(self._cells) - 1}")

    def _own(self, index: int) -> int:
        """Return the number of the cell that is drawn for this one."""
        self.check_cell(index)
        same_as = self._cells[index].same_as
        return index if same_as is None else same_as

    def _change(self, index: int, **values: Any) -> None:
        self._revision += 1
        self._changed.add(index)
        self._cells[index] = replace(self._cells[index], revision=self._revision, **values)
