"""The part of the engine that lets something be drawn between jobs: the frames of live mode.

`engine.Engine` inherits it and supplies the parts. Jobs go first: what is offered here runs when
none waits, or while the queue is paused, one piece at a time.
"""

from __future__ import annotations

from collections.abc import Callable

from sdforge.core.frame import Frame, FrameRequest
from sdforge.core.settings import Settings
from sdforge.engine.queue import JobQueue
from sdforge.engine.waiting import Chore
from sdforge.engine.worker import Worker


class Between:
    """What draws frames may ask of the model thread."""

    _queue: JobQueue
    _worker: Worker

    def offer_between(self, take: Callable[[], Callable[[], object] | None]) -> None:
        """Ask `take` for something to run whenever the model thread has no job.

        It is called under the queue's lock and must return at once; what it returns runs on the
        model thread and delays the next job by as long as it takes.
        """

        def offered() -> Chore | None:
            action = take()
            return None if action is None else Chore(action)

        self._queue.offer_between(offered)

    def wake(self) -> None:
        """Say that there may be something to run between jobs."""
        self._queue.wake()

    def draw_frame(self, wanted: FrameRequest, settings: Settings) -> Frame:
        """Draw one frame; to be called on the model thread only, from what `take` returned.

        Raises:
            SdforgeError: as jobs fail.
        """
        return self._worker.draw_frame(wanted, settings)
