"""Wires everything: flags to settings, folders, engine, API and page, and runs the server.

The only module that knows all the others. What is slow to import (fastapi, gradio, torch) is
imported when its turn comes: the API answers first, then the page, then the checkpoint loads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sdforge import __version__, garbage
from sdforge.core.errors import SdforgeError
from sdforge.core.log_context import JobFilter
from sdforge.flags import FlagError, Flags, parse, wants_cpu
from sdforge.from_flags import (
    StartError,
    credentials,
    make_folders,
    make_paths,
    make_settings,
    model_of,
    with_settings,
)
from sdforge.ports import PortError, bind, url_of

if TYPE_CHECKING:
    import uvicorn

    from sdforge.api.context import ServerControl
    from sdforge.core.device import DeviceInfo
    from sdforge.core.extension import Extension
    from sdforge.core.paths import Paths
    from sdforge.core.registry import Registry
    from sdforge.engine import Engine
    from sdforge.engine.runner import Runner
    from sdforge.models.library import Library
    from sdforge.server import Server
    from sdforge.sweeps.sweeps import Sweeps

log = logging.getLogger(__name__)

UI_PORT = 7860
API_PORT = 7861
# After this the connections that are still open are cut.
_GRACE_SECONDS = 3
# Of one WebSocket message; the largest that anybody sends is a sketch (`live.MOST_PICTURE_BYTES`).
_MOST_MESSAGE_BYTES = 9 * 2**20


def main(arguments: list[str] | None = None) -> int:
    """Run the server until it is stopped; return the exit status."""
    began = time.perf_counter()
    try:
        flags = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
    except FlagError as error:
        return _fail(str(error), status=2)
    configure_logging(flags["loglevel"])
    for note in flags.notes():
        log.warning("%s", note)
    if flags["advise"]:
        sys.stdout.write(advice(flags) + "\n")
        return 0
    try:
        with bind(_host(flags), flags["port"], API_PORT if flags["nowebui"] else UI_PORT) as bound:
            Launch(flags, bound, began).run()
    except (PortError, StartError, SdforgeError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130
    return 0


def run_and_leave(arguments: list[str]) -> NoReturn:
    """Run the server and end the process.

    Without Python's tidying up: taking torch and gradio apart takes seconds, and all that has to
    be written has been when `main` returns.
    """
    status = main(arguments)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _fail(sentence: str, status: int = 1) -> int:
    sys.stderr.write(f"sdforge: {sentence}\n")
    return status


def configure_logging(level: str) -> None:
    """Log to the terminal: ours from `level` on, third parties from WARNING on."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(job)s%(message)s",
        datefmt="%H:%M:%S",
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(JobFilter())
    logging.getLogger("sdforge").setLevel(level.upper())


def advice(flags: Flags) -> str:
    """Return which models suit this machine, in which mode and size; loads no torch."""
    from sdforge.core.device import survey
    from sdforge.engine.preflight import CALIBRATION_FILE
    from sdforge.memory.advice import advice_text, advise
    from sdforge.memory.calibration import Calibration

    machine = survey(force_cpu=wants_cpu(flags), device_id=flags["device_id"], flags=flags)
    learned = Calibration(make_paths(flags).cache / CALIBRATION_FILE)
    return advice_text(machine, advise(machine, learned))


def _host(flags: Flags) -> str:
    return flags["server_name"] or ("0.0.0.0" if flags["listen"] else "127.0.0.1")  # noqa: S104


def runner_factory(
    flags: Flags, library: Library, extensions: Registry[Extension], paths: Paths
) -> Callable[[], Runner]:
    """Return what makes the runner, on the model thread: it loads torch and probes the device."""

    def probe_device() -> DeviceInfo:
        from sdforge.core.device import limited, probe

        found = limited(probe(force_cpu=wants_cpu(flags), device_id=flags["device_id"]), flags)
        gib = found.total_bytes / 2**30
        log.info("Device: %s (%s), %.1f GiB", found.name, found.torch_name, gib)
        return found

    def make_runner() -> Runner:
        from sdforge.engine.inputs import InputFolder
        from sdforge.engine.preflight import CALIBRATION_FILE
        from sdforge.engine.runner import PipelineRunner

        return PipelineRunner(
            library,
            probe_device=probe_device,
            flags=flags,
            version=__version__,
            extensions=extensions,
            calibration=paths.cache / CALIBRATION_FILE,
            inputs=InputFolder(paths.inputs),
        )

    return make_runner


class Launch:
    """One run of the server, from the bound socket to the end."""

    def __init__(self, flags: Flags, bound: socket.socket, began: float) -> None:
        """`began` is the `perf_counter` at the start of the process's work.

        Raises:
            StartError: the data folder cannot be used.
        """
        self._flags = flags
        self._bound = bound
        self._began = began
        self._seconds: dict[str, float] = {}
        self._paths = make_paths(flags)
        make_folders(self._paths)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.url = url_of(bound, flags)

    def run(self) -> None:
        """Serve until a signal comes, then stop the engine.

        Raises:
            StartError, StorageError: the server could not start.
        """
        garbage.leave_it()
        from sdforge.engine import Engine
        from sdforge.engine.downloads import downloads_of
        from sdforge.extensions.catalog import extensions_by_flags
        from sdforge.models.library import Library
        from sdforge.models.watching import ModelWatcher
        from sdforge.sweeps.sweeps import Sweeps

        paths, settings = self._paths, make_settings(self._flags, self._paths)
        flags = self._flags = with_settings(self._flags, settings)
        library = Library(paths, hashing=not flags["no_hashing"])
        extensions = extensions_by_flags(flags, paths.extensions)
        engine = Engine(
            paths=paths,
            settings=settings,
            library=library,
            make_runner=runner_factory(flags, library, extensions, paths),
            version=__version__,
            extensions=extensions,
            flags=flags,
        )
        self._watcher = ModelWatcher(library)
        engine.attach(self._watcher)
        self._downloads = downloads_of(engine, paths, flags)
        try:
            self._serve(engine, Sweeps(engine, paths))
        finally:
            engine.close()
            log.info("Stopped")

    def _serve(self, engine: Engine, sweeps: Sweeps) -> None:
        import uvicorn

        from sdforge.api.app import create_api
        from sdforge.server import Server

        flags = {**self._flags, "api_auth": credentials(self._flags)}
        control = self._control(lambda: stop_once(server, engine))
        try:
            api = create_api(
                engine,
                paths=self._paths,
                flags=flags,
                version=__version__,
                process=control,
                sweeps=sweeps,
                downloads=self._downloads,
            )
            front = Server(api, flags=flags, on_start=lambda: self._on_start(engine, sweeps, front))
        except ValueError as error:
            raise StartError(str(error)) from error
        config = uvicorn.Config(
            front,
            log_config=None,
            access_log=False,
            lifespan="on",
            ws=_web_socket_class(),
            ws_max_size=_MOST_MESSAGE_BYTES,
            # Frames are compressed already.
            ws_per_message_deflate=False,
            server_header=False,
            timeout_keep_alive=flags["timeout_keep_alive"],
            timeout_graceful_shutdown=_GRACE_SECONDS,
            ssl_keyfile=flags["tls_keyfile"],
            ssl_certfile=flags["tls_certfile"],
        )
        server = _server_class()(config)
        with _signals(server, engine):
            server.run(sockets=[self._bound])

    def _control(self, stop: Callable[[], None]) -> ServerControl:
        """Return what the API's routes for stopping do to this process."""
        from sdforge.api.context import ServerControl

        marker = os.environ.get("SD_WEBUI_RESTART")

        def restart() -> None:
            Path(marker or "").touch()
            stop()

        return ServerControl(
            stop=stop,
            kill=lambda: os._exit(0),
            restart=restart if marker else None,
            startup_seconds=self._seconds,
        )

    def _on_start(self, engine: Engine, sweeps: Sweeps, front: Server) -> None:
        """Say where the server is; go on with what takes longer on a thread of its own."""
        self._loop = asyncio.get_running_loop()
        kind = "API" if self._flags["nowebui"] else "API and page"
        log.info("sdforge %s: %s at %s", __version__, kind, self.url)
        self._mark("api")
        log.info("API ready after %.1f s", self._seconds["api"])
        threading.Thread(
            target=self._finish_start,
            args=(engine, sweeps, front),
            name="sdforge-start",
            daemon=True,
        ).start()

    def _mark(self, part: str) -> None:
        self._seconds[part] = round(time.perf_counter() - self._began, 3)

    def _finish_start(self, engine: Engine, sweeps: Sweeps, front: Server) -> None:
        """Build the page, then let jobs run: both load much, and the page is waited for."""
        if not self._flags["nowebui"]:
            self._build_page(engine, sweeps, front)
        if self._flags["model"]:
            self._fetch_model(self._flags["model"])
        checkpoints = engine.library.checkpoints()
        folders = ", ".join(map(str, self._paths.checkpoints))
        log.info("Models: %s (checkpoints: %d)", folders, len(checkpoints))
        if checkpoints:
            _announce_mode(engine)
        preload = bool(checkpoints) and not self._flags["skip_load_model_at_start"]
        garbage.look_for_it_after(engine.preload() if preload else None)
        engine.start()
        sweeps.start()
        self._watcher.start()
        self._mark("jobs")

    def _fetch_model(self, text: str) -> None:
        """Fetch what `--model` names, unless it is there; jobs wait meanwhile."""
        file = model_of(text)
        if (self._downloads.folder("checkpoint") / file.name).exists():
            return
        log.info("Fetching %s; GET /api/v1/downloads tells how far it is", file)
        # That may take hours, in which the API answers.
        garbage.look_for_it()
        fetched = self._downloads.wait(self._downloads.add(text).id)
        if fetched.state == "failed":
            log.error("%s", fetched.error)

    def _build_page(self, engine: Engine, sweeps: Sweeps, front: Server) -> None:
        try:
            from sdforge.ui.app import create_ui_app

            look = {key: self._flags[key] for key in ("theme", "max_batch_count")}
            page = create_ui_app(engine, version=__version__, sweeps=sweeps, **look)
            if self._loop is not None:
                asyncio.run_coroutine_threadsafe(front.set_page(page), self._loop).result()
        except Exception as error:  # noqa: BLE001 - the API goes on without the page
            log.exception("the page could not be built")
            front.set_failure(f"The page could not be built: {error}")
            return
        self._mark("page")
        log.info("Page ready after %.1f s: %s", self._seconds["page"], self.url)
        if self._flags["autolaunch"]:
            webbrowser.open(self.url)


def _announce_mode(engine: Engine) -> None:
    """Say in which memory mode the checkpoint of the settings will run, and why."""
    facts = engine.memory_mode()
    name, gib = facts["device"], facts["total_bytes"] / 2**30
    if facts["mode"] is None:
        log.info("Memory: %s, %.1f GiB; no mode chosen: %s", name, gib, facts["reason"])
    else:
        log.info("Memory mode: %s on %s, %.1f GiB: %s", facts["mode"], name, gib, facts["reason"])


def _server_class() -> type[uvicorn.Server]:
    """Return uvicorn's server without its signal handling: ours also stops the engine."""
    import uvicorn

    class Quiet(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Quiet


def _web_socket_class() -> Any:
    """Return what makes uvicorn's side of a WebSocket; it is imported with the first one."""

    def make(*args: Any, **kwargs: Any) -> Any:
        from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

        return WebSocketsSansIOProtocol(*args, **kwargs)

    return make


def stop_once(server: uvicorn.Server, engine: Engine) -> None:
    """Stop server and engine together; asked again, stop at once."""
    if server.should_exit:
        server.force_exit = True
        return
    server.should_exit = True
    # Requests that wait for a job are answered when the engine stops, so it is told first.
    threading.Thread(target=engine.close, name="sdforge-stop").start()


@contextmanager
def _signals(server: uvicorn.Server, engine: Engine) -> Iterator[None]:
    """Stop at SIGINT and SIGTERM."""

    def stop(number: int, frame: Any) -> None:
        stop_once(server, engine)

    names = ("SIGINT", "SIGTERM", "SIGBREAK")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
