"""Waiting for jobs, and for things done between them, on the event loop.

The engine reports from its own threads. Here a waiting request costs one asyncio event and no
thread, so a thousand clients may wait for their pictures while progress still answers at once.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager

from sdforge.core.errors import QueueFull
from sdforge.core.events import Event, ImageSaved, JobEvent, StageStarted
from sdforge.engine import Engine, Job, Subscription
from sdforge.sweeps.manifest import Sweep
from sdforge.sweeps.sweeps import Sweeps


@asynccontextmanager
async def _listening(
    engine: Engine, job_id: str, after: int, kinds: tuple[type[Event], ...] | None = None
) -> AsyncIterator[tuple[Subscription, asyncio.Event]]:
    """Subscribe to a job; the event is set whenever there may be something new."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    changed.set()

    def notify() -> None:
        loop.call_soon_threadsafe(changed.set)

    # In a thread, because an old job's events are read from the disk.
    subscription = await asyncio.to_thread(
        engine.subscribe, job_id, after=after, notify=notify, kinds=kinds
    )
    try:
        yield subscription, changed
    finally:
        engine.unsubscribe(subscription)


# What a client hears of that waits for pictures. Steps are none of it: to wake this thread at each
# would slow the one that samples.
_LANDMARKS = (StageStarted, ImageSaved)


async def wait_finished(engine: Engine, job_id: str, on_change: Callable[[Job], None]) -> Job:
    """Return a job once it is finished, or as it is when the server stops.

    `on_change` sees the job at the beginning of each stage, after each picture and at the end.
    """
    async with _listening(engine, job_id, 0, _LANDMARKS) as (subscription, changed):
        while True:
            await changed.wait()
            changed.clear()
            _skip_events(subscription)
            ended = subscription.ended
            job = engine.get(job_id)
            on_change(job)
            if job.is_finished or ended:
                return job


async def done(future: Future[None]) -> None:
    """Wait for the model thread to do something; raises what it raised."""
    try:
        await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if future.cancelled():
            raise QueueFull("the server is stopping") from None
        raise


def _skip_events(subscription: Subscription) -> None:
    while True:
        try:
            subscription.get_nowait()
        except queue.Empty:
            return


async def job_events(
    engine: Engine, job_id: str, after: int, heartbeat: float
) -> AsyncIterator[JobEvent | None]:
    """Yield a job's events; None after each `heartbeat` seconds in which nothing happened."""
    async with _listening(engine, job_id, after) as (subscription, changed):
        while not subscription.ended:
            changed.clear()
            try:
                yield subscription.get_nowait()
                continue
            except queue.Empty:
                pass
            try:
                await asyncio.wait_for(changed.wait(), heartbeat)
            except TimeoutError:
                yield None


# --- sweeps --------------------------------------------------------------------------------------

# A grid of tiny pictures changes a hundred times a second; nobody sees more than a few.
_SWEEP_PAUSE_SECONDS = 0.2


async def wait_sweep_ended(sweeps: Sweeps, sweep_id: str) -> Sweep:
    """Return a sweep once it has ended, or as it is when the server stops."""
    async with _hearing(sweeps, sweep_id) as changed:
        while not (sweeps.is_ended(sweep_id) or sweeps.is_closed):
            await changed.wait()
            changed.clear()
    return await asyncio.to_thread(sweeps.get, sweep_id)


async def sweep_changes(
    sweeps: Sweeps, sweep_id: str, heartbeat: float
) -> AsyncIterator[Sweep | None]:
    """Yield a sweep as it is now and after each change, at last as it has ended.

    None comes after each `heartbeat` seconds in which nothing happened.
    """
    async with _hearing(sweeps, sweep_id) as changed:
        while True:
            changed.clear()
            is_over = sweeps.is_ended(sweep_id) or sweeps.is_closed
            if sweeps.is_closed:
                return
            yield await asyncio.to_thread(sweeps.get, sweep_id)
            if is_over:
                return
            await asyncio.sleep(_SWEEP_PAUSE_SECONDS)
            while not changed.is_set():
                try:
                    await asyncio.wait_for(changed.wait(), heartbeat)
                except TimeoutError:
                    yield None


@asynccontextmanager
async def _hearing(sweeps: Sweeps, sweep_id: str) -> AsyncIterator[asyncio.Event]:
    """Yield an event that is set whenever a sweep may have changed."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()

    def notify() -> None:
        loop.call_soon_threadsafe(changed.set)

    sweeps.listeners.add(sweep_id, notify)
    try:
        yield changed
    finally:
        sweeps.listeners.remove(sweep_id, notify)
