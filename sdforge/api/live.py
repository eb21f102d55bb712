"""/api/v1/live: live mode over a WebSocket; the messages are those of `live_messages.py`.

Who may connect is checked before this is reached (`security.py`). Each connection has two tasks:
one hears the client, one sends what there is to send; a frame is encoded on a thread of its own
while the model thread is free for somebody else's.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect

from sdforge.api.context import ApiContext
from sdforge.api.live_messages import (
    Clear,
    Draw,
    Encoding,
    FrameHeader,
    Keep,
    Kept,
    Problem,
    Ready,
    Shown,
    State,
    pack,
    parse,
)
from sdforge.core.errors import InvalidRequest, QueueFull, SdforgeError
from sdforge.live.live import MOST_PICTURE_BYTES, Live, error_message
from sdforge.live.session import Drawn, Session

# Text messages are prompts and numbers.
_MOST_TEXT_BYTES = 256 * 1024
# How often a session looks whether the model or the queue is in another state.
_LOOK_SECONDS = 0.5
# https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1 and IANA's registry.
_TOO_BIG, _TRY_AGAIN_LATER = 1009, 1013
_MOST_REASON_BYTES = 120
# A client that takes nothing must not hold its place for ever.
_CLOSE_SECONDS = 5


def router(context: ApiContext) -> APIRouter:
    """Return the route."""
    routes = APIRouter(prefix="/api/v1", tags=["live"])
    live = Live(context.engine, lambda: context.library.loras.loras())

    @routes.websocket("/live")
    async def connect(socket: WebSocket) -> None:
        await socket.accept()
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def notify() -> None:
            # The loop is gone when the server stops while a frame is drawn.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(changed.set)

        try:
            session = live.open(notify)
        except QueueFull as error:
            await socket.close(_TRY_AGAIN_LATER, error.message[:_MOST_REASON_BYTES])
            return
        try:
            await _Connection(live, session, socket, changed).run()
        finally:
            live.close(session)

    return routes


class _Connection:
    """One client, from the handshake to the end."""

    def __init__(
        self, live: Live, session: Session, socket: WebSocket, changed: asyncio.Event
    ) -> None:
        self._live = live
        self._session = session
        self._socket = socket
        self._changed = changed
        self._encoding = Encoding(type="encoding")
        self._said: dict[str, Any] = {}

    async def run(self) -> None:
        """Serve until the client goes; the end of either task ends both."""
        async with anyio.create_task_group() as tasks:
            for work in (self._hear, self._speak):
                tasks.start_soon(_until_closed, work, tasks.cancel_scope)

    async def _hear(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text, data = message.get("text"), message.get("bytes")
            size = len(data) if data is not None else len(text or "")
            if size > (MOST_PICTURE_BYTES if data is not None else _MOST_TEXT_BYTES):
                await self._refuse(_TOO_BIG, "the message is too large")
                return
            try:
                if data is not None:
                    await run_in_threadpool(self._live.set_picture, self._session, data)
                else:
                    await self._obey(text or "")
            except SdforgeError as error:
                await self._say(Problem(**error_message(error, None)))

    async def _refuse(self, code: int, reason: str) -> None:
        """End the connection and say why.

        The other task finds it closed before the message has left, and would end this one with it.
        """
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
            await self._socket.close(code, reason)

    async def _obey(self, text: str) -> None:
        message = parse(text)
        live, session = self._live, self._session
        if isinstance(message, Draw):
            try:
                live.ask(session, message.wish())
            except InvalidRequest as error:
                await self._say(Problem(**error_message(error, message.number)))
        elif isinstance(message, Shown):
            live.shown(session, message.number)
        elif isinstance(message, Keep):
            job = await run_in_threadpool(live.keep, session, message.number)
            await self._say(Kept(number=message.number, job=job.id))
        elif isinstance(message, Clear):
            live.set_picture(session, b"")
        else:
            self._encoding = message

    async def _speak(self) -> None:
        while True:
            await self._say_what_changed()
            with anyio.move_on_after(_LOOK_SECONDS):
                await self._changed.wait()
            self._changed.clear()
            for kind, message in self._live.collect(self._session).items():
                if kind == "frame":
                    await self._send_frame(message)
                else:
                    await self._socket.send_json(message)

    async def _say_what_changed(self) -> None:
        """Send the facts of the checkpoint and the state of things, where they are new."""
        try:
            facts = await run_in_threadpool(self._live.facts)
            await self._say_once("ready", Ready(**facts))
        except SdforgeError as error:
            await self._say_once("ready", Problem(**error_message(error, None)))
        state = State(**self._live.state(self._session))
        await self._say_once("state", state)

    async def _say_once(self, kind: str, message: Ready | State | Problem) -> None:
        if self._said.get(kind) != message:
            self._said[kind] = message
            await self._say(message)

    async def _say(self, message: Ready | State | Problem | Kept) -> None:
        await self._socket.send_text(message.model_dump_json())

    async def _send_frame(self, drawn: Drawn) -> None:
        encoding = self._encoding
        started = time.perf_counter()
        picture = await run_in_threadpool(_encoded, drawn, encoding)
        timings = {**drawn.frame.timings, "encode image": time.perf_counter() - started}
        height, width = drawn.frame.pixels.shape[:2]
        header = FrameHeader(
            number=drawn.number,
            media_type=f"image/{encoding.format}",
            width=width,
            height=height,
            steps=drawn.quality.steps,
            seed=drawn.request.seed,
            decoder=drawn.frame.decoder,
            asked_width=drawn.quality.width,
            asked_height=drawn.quality.height,
            went_on=drawn.frame.went_on,
            frame_ms=round(1000 * drawn.seconds, 1),
            timings_ms={name: round(1000 * seconds, 2) for name, seconds in timings.items()},
            notes=list(drawn.frame.notes),
        )
        self._live.sent(self._session, drawn.number)
        await self._socket.send_bytes(pack(header, picture))


async def _until_closed(work: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
    """Run one of a connection's tasks, and end the other one with it."""
    # Starlette says with a RuntimeError that the connection is closed already.
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await work()
    scope.cancel()


def _encoded(drawn: Drawn, encoding: Encoding) -> bytes:
    from sdforge.output.images import encode_image

    return encode_image(
        drawn.frame.pixels, encoding.format, infotext=None, quality=encoding.quality
    )
