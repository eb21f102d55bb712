"""The test server on a real port, for clients that bring their own HTTP, and one that draws."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.testclient import TestClient

from sdforge.api.app import create_api
from sdforge.core.device import DeviceInfo
from sdforge.core.paths import Paths
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine, PipelineRunner
from sdforge.engine.inputs import InputFolder
from sdforge.models.library import Library
from tests.api.conftest import BASE_URL, Server


@contextmanager
def drawing(folder: Path) -> Iterator[TestClient]:
    """Give a client of a server that really draws, on the CPU, with the models of a data folder."""
    paths = Paths.under(folder)
    library = Library(paths)
    cpu = DeviceInfo(
        kind="cpu", index=0, name="CPU", total_bytes=8 * 2**30, supports_fp16=False,
        supports_bf16=False,
    )  # fmt: skip
    engine = Engine(
        paths=paths,
        settings=SettingsStore(None),
        library=library,
        make_runner=lambda: PipelineRunner(
            library, probe_device=lambda: cpu, inputs=InputFolder(paths.inputs)
        ),
        version="0.0-test",
    )
    engine.start()
    try:
        app = create_api(engine, paths=paths, flags={}, version="0.0-test")
        yield TestClient(app, base_url=BASE_URL)
    finally:
        engine.close(timeout=60)


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
