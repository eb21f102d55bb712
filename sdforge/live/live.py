"""The facade of live mode: sessions, their wishes, and frames drawn between the engine's jobs.

All methods may be called from any thread and return at once, but for `keep` and `set_picture`,
which read pictures. Drawing happens on the engine's model thread, one frame at a time.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from sdforge.core.errors import Cancelled, QueueFull, SdforgeError
from sdforge.core.inputs import InputImage
from sdforge.engine.job import Job
from sdforge.live.choice import CheckpointLike, Choice, LoraLike, choice_for
from sdforge.live.line import Line, Waiting
from sdforge.live.session import Asked, Drawn, Session, Sketch
from sdforge.live.wish import Wish

if TYPE_CHECKING:
    from sdforge.engine import Engine
    from sdforge.engine.resolution import Checkpoint

log = logging.getLogger(__name__)

# Each holds some pictures; more pages than this nobody looks at.
MOST_SESSIONS = 16
# Sketches are screenfuls, not photographs.
MOST_PICTURE_BYTES = 8 * 2**20
_LOG_EVERY = 100
# Somebody may put a LoRA into its folder while a session goes on.
_LOOK_SECONDS = 2.0
# While live frames are drawn nobody looks at previews of them.
_QUIET = {"live_previews_enable": False}


class Live:
    """The live mode of one server."""

    def __init__(self, engine: Engine, loras: Callable[[], Sequence[LoraLike]]) -> None:
        """Offer frames to the engine from now on; `loras` lists the files there are."""
        self._engine = engine
        self._loras = loras
        self._lock = threading.Lock()
        self._line: Line[Asked] = Line()
        self._sessions: dict[str, Session] = {}
        self._numbers = itertools.count(1)
        self._known: tuple[tuple[str, bool], float, tuple[Checkpoint, Choice]] | None = None
        engine.offer_between(self._take)

    # --- what clients do ---------------------------------------------------------------------

    def open(self, notify: Callable[[], None]) -> Session:
        """Let a client in; `notify` is called on other threads when there is something to send.

        Raises:
            QueueFull: there are too many already.
        """
        with self._lock:
            if len(self._sessions) >= MOST_SESSIONS:
                raise QueueFull(
                    f"{MOST_SESSIONS} pages are in live mode already, the most that may be; close "
                    "one of them"
                )
            session = Session(f"live-{next(self._numbers)}", notify)
            self._sessions[session.id] = session
            self._line.open(session.id)
            return session

    def close(self, session: Session) -> None:
        """Let a client go; what it wished for is not drawn any more."""
        with self._lock:
            self._line.close(session.id)
            if self._sessions.pop(session.id, None) is None:
                return
        _log_pace(session)

    def ask(self, session: Session, wish: Wish) -> None:
        """Put a wish in line in place of the one that waits; it is drawn when its turn comes.

        Raises:
            InvalidRequest: a value cannot be used.
        """
        wish.check()
        with self._lock:
            if self._line.ask(session.id, wish.number, Asked(wish=wish, at=time.monotonic())):
                session.superseded += 1
        self._engine.wake()

    def set_picture(self, session: Session, data: bytes) -> None:
        """Take the picture that frames start from; b"" takes it away.

        Raises:
            InvalidRequest: damaged, too large, or of a format that is not read.
        """
        sketch = None
        if data:
            from sdforge.postprocess.decoding import decode_picture

            limit = self._engine.settings.current.max_input_pixels
            picture = decode_picture(data, "picture", max_pixels=limit)
            name = hashlib.sha256(data).hexdigest()
            sketch = Sketch(data=data, image=InputImage(name, picture.width, picture.height))
        with self._lock:
            session.sketch = sketch

    def sent(self, session: Session, number: int) -> None:
        """Take note that a frame left for its client."""
        with self._lock:
            session.sent = number, time.monotonic()

    def shown(self, session: Session, number: int) -> None:
        """Take note of the client's word that it has a frame; its next one may be drawn."""
        now = time.monotonic()
        with self._lock:
            if not self._line.shown(session.id, number):
                return
            drawn = session.drawn.get(number)
            if drawn is not None:
                session.pace.add(now, drawn.seconds, now - drawn.asked_at)
            network = now - session.sent[1] if session.sent and session.sent[0] == number else 0.0
            session.outbox["pace"] = {
                "type": "pace",
                "number": number,
                "network_ms": round(network * 1000, 1),
                "superseded": session.superseded,
                **session.pace.now().to_json(),
            }
        if drawn is not None and session.frames % _LOG_EVERY == 0:
            _log_pace(session)
        self._engine.wake()
        session.notify()

    def keep(self, session: Session, number: int) -> Job:
        """Make a frame an ordinary job, which draws it with the full decoder and saves it.

        Raises:
            NotFound: the frame is too old.
            QueueFull, StorageError: as `Engine.submit` does.
        """
        with self._lock:
            drawn = session.find(number)
        request = drawn.request
        if drawn.sketch is not None:
            image = self._engine.add_input(drawn.sketch.data, "picture")
            request = replace(request, init_images=(image,))
        elif drawn.before is not None:
            from sdforge.output.images import encode_image

            data = encode_image(drawn.before.pixels, "png", infotext=None)
            request = replace(request, init_images=(self._engine.add_input(data, "picture"),))
        else:
            # It was meant to go on from a frame, and there was none.
            request = replace(request, denoising_strength=None, overrides={})
        return self._engine.submit_resolved(request, drawn.settings, origin="ui")

    def waits(self, session: Session) -> bool:
        """Tell whether a session's wish is not being drawn yet."""
        with self._lock:
            return self._line.waits(session.id)

    def collect(self, session: Session) -> dict[str, Any]:
        """Take what is to be sent, by kind: "frame" a `Drawn`, all else a message."""
        with self._lock:
            taken, session.outbox = session.outbox, {}
        return taken

    def facts(self, *, speed_lora: bool = True) -> dict[str, Any]:
        """Return what a page needs to know of the checkpoint in use.

        Raises:
            SdforgeError: there is none that can be used.
        """
        checkpoint, choice = self._checkpoint(speed_lora=speed_lora)
        return {
            "checkpoint": checkpoint.title,
            "steps": list(choice.steps),
            "sizes": [list(size) for size in choice.sizes],
            "cfg_scale": choice.cfg_scale,
            "sampler": choice.sampler,
            "lora": choice.lora,
            "is_fast": choice.is_fast,
            "reason": choice.reason,
        }

    def state(self, session: Session) -> dict[str, Any]:
        """Return why a wish waits, or that none does: {"state", "text", "fraction"}."""
        model, queue = self._engine.model_state(), self._engine.queue_state()
        with self._lock:
            waits = self._line.waits(session.id)
            others = len(self._sessions) - 1
        if model["loading"]:
            percent = round(100 * model["fraction"])
            text = f"Loading {percent} %"
            return {"state": "loading", "text": text, "fraction": model["fraction"]}
        if queue["running"] or (queue["waiting"] and not queue["paused"]):
            text = "A job is being drawn; live frames go on after it."
            if queue["waiting"] and not queue["paused"]:
                text = (
                    f"Jobs go first: {queue['running'] + queue['waiting']} before the next frame."
                )
            return {"state": "waiting" if waits else "busy", "text": text, "fraction": 0.0}
        if waits and others:
            return {"state": "drawing", "text": f"Taking turns with {others} other pages",
                    "fraction": 0.0}  # fmt: skip
        return {"state": "ready", "text": "Ready", "fraction": 0.0}

    # --- on the model thread -----------------------------------------------------------------

    def _take(self) -> Callable[[], None] | None:
        """Return the drawing of the next frame; called under the queue's lock."""
        with self._lock:
            taken = self._line.take()
            if taken is None:
                return None
            name, waiting = taken
            session = self._sessions[name]
        return lambda: self._draw(session, waiting)

    def _draw(self, session: Session, waiting: Waiting[Asked]) -> None:
        number = waiting.number
        try:
            drawn = self._drawn(session, waiting.wish)
        except Cancelled:
            # A job came: it goes first, and the wish waits on.
            with self._lock:
                self._line.put_back(session.id, waiting)
            return
        except Exception as error:  # noqa: BLE001 (the client is told; the thread goes on)
            if not isinstance(error, SdforgeError):
                log.exception("frame %d of %s failed", number, session.id)
            with self._lock:
                self._line.failed(session.id, number)
                session.outbox["error"] = error_message(error, number)
        else:
            with self._lock:
                if not self._line.drawn(session.id, number):
                    return
                session.outbox["frame"] = drawn
            _log_frame(session, drawn)
        session.notify()

    def _drawn(self, session: Session, asked: Asked) -> Drawn:
        started = time.monotonic()
        wish, engine = asked.wish, self._engine
        checkpoint, choice = self._checkpoint(speed_lora=wish.speed_lora)
        with self._lock:
            plan = session.plan(wish, choice, checkpoint.title)
        resolved, settings = engine.resolve(plan.request)
        frame = engine.draw_frame(
            session.frame_request(plan, resolved), settings.with_overrides(_QUIET)
        )
        with self._lock:
            return session.remember(
                plan, resolved, settings, frame, asked_at=asked.at,
                seconds=time.monotonic() - started,
            )  # fmt: skip

    def _checkpoint(self, *, speed_lora: bool) -> tuple[Checkpoint, Choice]:
        """Return the checkpoint of the settings and what it allows; looked up now and then."""
        key, now = (self._engine.settings.current.sd_model_checkpoint, speed_lora), time.monotonic()
        held = self._known
        if held is not None and held[0] == key and now - held[1] < _LOOK_SECONDS:
            return held[2]
        checkpoint = self._engine.configured_checkpoint()
        choice = choice_for(cast(CheckpointLike, checkpoint), self._loras(), speed_lora=speed_lora)
        self._known = key, now, (checkpoint, choice)
        return checkpoint, choice


def error_message(error: BaseException, number: int | None) -> dict[str, Any]:
    """Return what a client is told of an error; of our own faults no more than that."""
    known = isinstance(error, SdforgeError)
    return {
        "type": "error",
        "number": number,
        "message": str(error) if known else "The frame failed; the server's log says more.",
        "field": getattr(error, "field", None) if known else None,
    }


def _log_frame(session: Session, drawn: Drawn) -> None:
    if log.isEnabledFor(logging.DEBUG):
        parts = ", ".join(f"{name} {1000 * t:.1f} ms" for name, t in drawn.frame.timings.items())
        log.debug("frame %d of %s: %s", drawn.number, session.id, parts)


def _log_pace(session: Session) -> None:
    pace = session.pace.now()
    log.info(
        "%s: %d frames, %.1f a second, %.0f ms each ± %.0f, %.0f ms from wish to screen; %d wishes "
        "superseded", session.id, session.frames, pace.fps, pace.frame_ms, pace.jitter_ms,
        pace.latency_ms, session.superseded,
    )  # fmt: skip
