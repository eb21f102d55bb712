"""The facade: everything that the API and the page may do with sweeps.

A thread of its own turns cells into jobs of the engine and takes over what becomes of them; all
methods may be called from any thread and return quickly, but for `wait` and those that draw.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from sdforge.core.errors import InvalidRequest, NotFound, StorageError
from sdforge.core.events import StageStarted
from sdforge.core.paths import Paths
from sdforge.core.request import GenerationRequest
from sdforge.engine import Engine, check_job_id
from sdforge.sweeps.catalog import EngineCatalog
from sdforge.sweeps.drawing import collect, foreseen, submit_some
from sdforge.sweeps.dry_run import dry_run
from sdforge.sweeps.housekeeping import Listeners, clean
from sdforge.sweeps.manifest import GridFile, Sweep, new_sweep_id
from sdforge.sweeps.prepare import new_sweep, prepare
from sdforge.sweeps.request import SweepRequest
from sdforge.sweeps.running import RunningSweep
from sdforge.sweeps.sheets import save_grid
from sdforge.sweeps.store import SweepStore

log = logging.getLogger(__name__)

# When the queue or the disk is full, how long until the next attempt.
_RETRY_SECONDS = 1.0
# Ended sweeps that stay in memory, for those who look at them.
_KEEP_ENDED = 4


class Sweeps:
    """One server's sweeps over one engine."""

    def __init__(self, engine: Engine, paths: Paths) -> None:
        """Open the store; nothing is drawn before `start` or the first `submit`.

        Raises:
            StorageError: the store cannot be used.
        """
        self.catalog = EngineCatalog(engine)
        self.listeners = Listeners()
        self._engine = engine
        self._paths = paths
        self._store = SweepStore(paths.sweeps_database)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._running: dict[str, RunningSweep] = {}
        # Set from the engine's threads, which may hold its locks: nothing else may happen there.
        self._woken = threading.Event()
        self._watched: set[str] = set()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        engine.attach(self)

    def start(self) -> None:
        """Take up the sweeps that were running when the last server stopped."""
        with self._lock:
            for sweep, waiting in self._store.unfinished():
                log.info("%s goes on: %d cells to draw", sweep.id, len(waiting))
                self._running[sweep.id] = RunningSweep(sweep, waiting)
            if self._running:
                self._work()
        self._clean()

    def close(self) -> None:
        """Submit nothing any more; what runs stays as it is until the next start."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            thread = self._thread
            self._changed.notify_all()
        self._woken.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._store.close()
        self.listeners.tell_all()

    # --- asking for sweeps ---------------------------------------------------------------------

    def dry_run(self, asked: SweepRequest) -> dict[str, object]:
        """Return what a sweep would take, as docs/sweeps.md has it; nothing is drawn.

        Raises:
            InvalidRequest, NotAvailable, ModelError: as `submit` does.
        """
        return dry_run(self._engine, prepare(self._engine, asked), self._paths)

    def submit(
        self,
        asked: SweepRequest,
        *,
        sweep_id: str | None = None,
        origin: str = "api",
        save_images: bool = True,
    ) -> Sweep:
        """Check, resolve and store a sweep and begin to draw it.

        Args:
            asked: what to draw.
            sweep_id: the client's own id.
            origin: "ui" or "api".
            save_images: False keeps pictures and grid out of the output folders.

        Raises:
            InvalidRequest: an axis or a value cannot be used; it is named.
            UnknownName: no sampler, checkpoint… of that name.
            NotAvailable: an axis varies what this version lacks.
            ModelError: no cell can be drawn.
            StorageError: it could not be stored.
        """
        if sweep_id is not None:
            check_job_id(sweep_id)
            if not sweep_id.replace("-", "").replace("_", "").isalnum():
                raise InvalidRequest("id", sweep_id, "letters, digits, - and _")
        prepared = prepare(self._engine, asked)
        sweep = new_sweep(asked, prepared, sweep_id or new_sweep_id(), origin, save_images)
        with self._lock:
            if self._is_closed:
                raise StorageError("the server is stopping and takes no more sweeps")
            requests = [
                request if same is None else None
                for request, same in zip(prepared.requests, prepared.same_as, strict=True)
            ]
            self._store.add(sweep, prepared.order, requests)
            self._running[sweep.id] = RunningSweep(sweep, prepared.order)
            self._work()
        self._woken.set()
        self._clean()
        return sweep

    def get(self, sweep_id: str) -> Sweep:
        """Return a sweep as it stands; raises `NotFound`."""
        with self._lock:
            running = self._running.get(sweep_id)
            return running.snapshot() if running else self._stored(sweep_id)[0]

    def newest(self, limit: int) -> list[Sweep]:
        """Return the newest sweeps, newest first."""
        return [self.get(sweep_id) for sweep_id in self._store.newest(limit)]

    def request(self, sweep_id: str, index: int) -> GenerationRequest:
        """Return what a cell draws; raises `NotFound`, `InvalidRequest`, `StorageError`."""
        sweep = self.get(sweep_id)
        RunningSweep(sweep, ()).check_cell(index)
        same_as = sweep.cells[index].same_as
        return self._store.request(sweep_id, index if same_as is None else same_as)

    def wait(self, sweep_id: str, timeout: float | None = None) -> Sweep:
        """Wait until a sweep has ended, or the server stops; return it as it is then."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self.is_ended(sweep_id), timeout)
            running = self._running.get(sweep_id)
            if running is not None:
                return running.snapshot()
        return self.get(sweep_id)

    def is_ended(self, sweep_id: str) -> bool:
        """Say whether nothing more will happen to a sweep of its own accord."""
        with self._lock:
            running = self._running.get(sweep_id)
            return running is None or running.is_ended

    # --- changing them -------------------------------------------------------------------------

    def cancel(self, sweep_id: str) -> None:
        """Draw nothing more of a sweep; its grid is made of what there is."""
        with self._lock:
            running = self._loaded(sweep_id)
            jobs = running.cancel() if not running.is_ended else []
        self._cancel_jobs(jobs)
        self._commit(running)

    def interrupt(self) -> bool:
        """Cancel the sweep whose cell runs now, if one does; return whether it was so."""
        job = self._engine.current()
        with self._lock:
            owners = [
                one.id
                for one in self._running.values()
                if any(job is None or cell.job == job.id for cell in one.running)
            ]
        for sweep_id in owners:
            self.cancel(sweep_id)
        return bool(owners)

    def resume(self, sweep_id: str) -> None:
        """Go on with a cancelled sweep."""
        with self._lock:
            running = self._loaded(sweep_id)
            running.resume()
            self._work()
        self._commit(running)

    def retry(self, sweep_id: str, index: int | None = None) -> None:
        """Draw a cell once more, or (None) all cells without a picture.

        Raises:
            NotFound: no such sweep.
            InvalidRequest: no such cell, or it waits or runs.
        """
        with self._lock:
            running = self._loaded(sweep_id)
            if index is not None:
                running.check_cell(index)
                self._check_drawable(sweep_id, running, index)
            running.retry(index)
            self._work()
        self._commit(running)

    def skip(self, sweep_id: str, index: int) -> None:
        """Leave a cell out, whether it waits or runs. Raises `NotFound`, `InvalidRequest`."""
        with self._lock:
            running = self._loaded(sweep_id)
            job = running.skip(index)
        self._cancel_jobs([job] if job else [])
        self._commit(running)

    def draw_first(self, sweep_id: str, index: int) -> None:
        """Draw a waiting cell before all others. Raises `NotFound`, `InvalidRequest`."""
        with self._lock:
            running = self._loaded(sweep_id)
            running.draw_first(index)
        self._commit(running)

    @property
    def is_closed(self) -> bool:
        """Whether the server is stopping."""
        return self._is_closed

    def inputs_in_use(self) -> set[str]:
        """Return the SHA-256 of input pictures that cells to come need."""
        with self._lock:
            return {
                name
                for one in self._running.values()
                if not one.is_ended
                for name in one.manifest.inputs
            }

    # --- the thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="sdforge-sweeps", daemon=True)
            self._thread.start()
        self._woken.set()

    def _loop(self) -> None:
        delay: float | None = None
        while not self._is_closed:
            self._woken.wait(delay)
            self._woken.clear()
            try:
                delay = None if self._step() else _RETRY_SECONDS
            except Exception:  # one sweep's trouble must not end all others
                log.exception("a step of the sweeps failed")
                delay = _RETRY_SECONDS

    def _step(self) -> bool:
        """Take over what jobs became, queue the next, end what is over; False to try again soon."""
        with self._lock:
            if self._is_closed:
                return True
            alive = [one for one in self._running.values() if not one.is_ended]
            before = {one.id: one.revision for one in alive}
            for one in alive:
                collect(self._engine, one, self._folder(one.id))
            if not any(one.running for one in alive):
                # A job may begin before this thread goes on.
                self._engine.expect(foreseen(alive))
            is_done = submit_some(self._engine, self._store, alive)
            moved = [one for one in alive if one.revision != before[one.id]]
            for one in moved:
                self._save(one)
            if moved:
                self._engine.expect(foreseen(alive))
            self._watch(alive)
            over = [one for one in alive if one.must_end]
        for one in moved:
            self.listeners.tell(one.id)
        for one in over:
            self._end(one)
        return is_done

    def _end(self, running: RunningSweep) -> None:
        """Draw and save the grid, then record the end; outside of the lock, for it takes long."""
        sweep = running.snapshot()
        grid: GridFile | None = None
        try:
            grid = save_grid(sweep, self._paths, self.request)
        except Exception as error:  # the cells are there, whatever is wrong with the grid
            log.exception("the grid of %s could not be saved: %s", sweep.id, error)
        with self._lock:
            if running.must_end and not self._is_closed:
                running.finish(grid)
                self._save(running)
                self._forget_ended()
                self._changed.notify_all()
        log.info("%s: %s, %s", sweep.id, running.status.value,
                 ", ".join(f"{n} {name}" for name, n in sweep.counts().items() if n))  # fmt: skip
        self.listeners.tell(running.id)

    def _watch(self, alive: Sequence[RunningSweep]) -> None:
        """Be woken by whatever happens to the jobs of cells."""
        jobs = {cell.job for one in alive for cell in one.running}
        for job_id in jobs - self._watched:
            try:
                self._engine.subscribe(job_id, notify=self._woken.set, kinds=(StageStarted,))
                is_over = self._engine.get(job_id).is_finished
            except NotFound:
                is_over = True
            if is_over:
                self._woken.set()
        self._watched = jobs

    # --- inside --------------------------------------------------------------------------------

    def _stored(self, sweep_id: str) -> tuple[Sweep, list[int]]:
        found = self._store.get(sweep_id)
        if found is None:
            raise NotFound(f"no sweep has the id {sweep_id[:80]!r}")
        return found

    def _loaded(self, sweep_id: str) -> RunningSweep:
        running = self._running.get(sweep_id)
        if running is None:
            running = RunningSweep(*self._stored(sweep_id))
            self._running[sweep_id] = running
        return running

    def _check_drawable(self, sweep_id: str, running: RunningSweep, index: int) -> None:
        """Raise `InvalidRequest` for a cell that was broken from the start."""
        sweep = running.snapshot()
        same_as = sweep.cells[index].same_as
        try:
            self._store.request(sweep_id, index if same_as is None else same_as)
        except StorageError as error:
            reason = sweep.cell(index).error
            said = reason.message if reason else "nothing to draw"
            raise InvalidRequest("cell", index, f"one that can be drawn; {said}") from error

    def _commit(self, running: RunningSweep) -> None:
        with self._lock:
            self._save(running)
        self._woken.set()
        self.listeners.tell(running.id)

    def _save(self, running: RunningSweep) -> None:
        try:
            running.save(self._store)
        except StorageError as error:
            # It is written with the next change; a crash before that draws cells once more.
            log.error("the state of %s is not stored: %s", running.id, error)

    def _cancel_jobs(self, jobs: list[str]) -> None:
        for job in jobs:
            try:
                self._engine.cancel(job)
            except NotFound:
                continue

    def _forget_ended(self) -> None:
        ended = [one.id for one in self._running.values() if one.is_ended]
        for sweep_id in ended[:-_KEEP_ENDED]:
            del self._running[sweep_id]

    def _folder(self, sweep_id: str) -> Path:
        return self._paths.sweeps / sweep_id

    def _clean(self) -> None:
        with self._lock:
            kept = set(self._running)
        clean(self._paths.sweeps, kept, self._engine.settings.current.sweeps_keep_days)
