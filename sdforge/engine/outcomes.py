"""The part of the engine that hands out what jobs make: pictures, previews, events.

`engine.Engine` inherits it and supplies the parts; nothing here changes a job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from sdforge.core.errors import NotFound
from sdforge.core.events import JobEvent
from sdforge.engine.event_log import Kinds, Subscription
from sdforge.engine.picture_cache import PictureCache
from sdforge.engine.queue import JobQueue


class Outcomes:
    """What the API and the page may see of jobs; methods may be called from any thread."""

    _queue: JobQueue
    _pictures: PictureCache

    def preview(self, job_id: str) -> tuple[int, bytes, str] | None:
        """Return (number, encoded picture, media type) of a running job's newest preview."""
        return self._queue.preview(job_id)

    def image_data(self, job_id: str, index: int) -> tuple[bytes, str]:
        """Return (encoded picture, media type) of a job's picture `index`; -1 is its grid.

        Raises:
            NotFound: no such job or picture, its file is gone, or it was never saved and had to
                make room for newer ones.
        """
        job = self._queue.get(job_id)
        known = job.images if job.grid is None else (*job.images, job.grid)
        image = next((image for image in known if image.index == index), None)
        if image is None:
            raise NotFound(f"job {job_id!r} has no picture {index}; it has {len(job.images)}")
        if image.path is not None:
            try:
                return Path(image.path).read_bytes(), image.media_type
            except OSError as error:
                text = f"picture {index} of job {job_id!r} cannot be read: {error.strerror}"
                raise NotFound(text) from error
        held = self._pictures.get(job_id, index)
        if held is None:
            raise NotFound(
                f"picture {index} of job {job_id!r} was not saved and is no longer in memory"
            )
        return held

    def events(self, job_id: str, after: int = 0) -> Iterator[JobEvent]:
        """Yield a job's events numbered above `after`: those that were, then live ones.

        Ends after `JobFinished`, or when the server stops. Blocks while nothing happens.

        Raises:
            NotFound: no job has this id.
        """
        return iter(Subscription(self._queue.event_log(job_id), after))

    def subscribe(
        self,
        job_id: str,
        *,
        after: int = 0,
        notify: Callable[[], None] | None = None,
        kinds: Kinds | None = None,
    ) -> Subscription:
        """Return a reader of a job's events, used like a `queue.Queue`.

        Args:
            job_id: whose events.
            after: only those numbered above.
            notify: called on other threads whenever there may be something to get.
            kinds: classes of events that `notify` is called for, besides the end; None for all.

        Raises:
            NotFound: no job has this id.
        """
        return Subscription(self._queue.event_log(job_id), after, notify, kinds)

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription."""
        subscription.close()
