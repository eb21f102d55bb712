"""The test server on a real port, for clients that bring their own HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from tests.api.conftest import Server


@contextmanager
def served(server: Server) -> Iterator[str]:
    """Serve an API; give its address."""
    config = uvicorn.Config(server.app, port=0, log_config=None, access_log=False, lifespan="off")
    web = uvicorn.Server(config)
    started = threading.Event()

    async def startup(sockets: object = None) -> None:
        await uvicorn.Server.startup(web)
        started.set()

    web.startup = startup  # type: ignore[method-assign]
    thread = threading.Thread(target=web.run)
    thread.start()
    assert started.wait(60)
    port = web.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        web.should_exit = True
        thread.join()
