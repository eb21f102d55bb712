"""A server over a real engine and a real library; only the model is a fake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from scripts.make_tiny_checkpoints import write_checkpoint
from sdforge.api.app import create_api
from sdforge.core.paths import Paths
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine
from sdforge.engine.inputs import InputFolder
from sdforge.models.library import Library
from tests.engine.fakes import FakeRunner

BASE_URL = "http://127.0.0.1:7860"


@dataclass
class Server:
    """What a test can reach of a server."""

    app: FastAPI
    client: TestClient
    engine: Engine
    runner: FakeRunner
    paths: Paths

    def draw(self, **payload: Any) -> dict[str, Any]:
        """Post a small txt2img job and return its answer."""
        answer = self.client.post("/sdapi/v1/txt2img", json=small(**payload))
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body


def small(**payload: Any) -> dict[str, Any]:
    """Return a payload of one quick picture."""
    return {"prompt": "a cat", "steps": 3, "width": 64, "height": 64, "seed": 5} | payload


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that the library takes for a Stable Diffusion 1.x checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return write_checkpoint(folder / "tiny.safetensors", metadata={"modelspec.resolution": "64x64"})


def make_models(data: Path, tiny_checkpoint: Path) -> None:
    """Put `tiny`, `other` and the damaged `broken` into a data folder."""
    folder = data / "models" / "Stable-diffusion"
    folder.mkdir(parents=True)
    for name in ("tiny", "other"):
        (folder / f"{name}.safetensors").symlink_to(tiny_checkpoint)
    with tiny_checkpoint.open("rb") as whole:
        (folder / "broken.safetensors").write_bytes(whole.read(500_000))


def make_server(data: Path, flags: dict[str, Any] | None = None, **settings: Any) -> Server:
    """Return a server on a data folder, its engine running."""
    paths = Paths.under(data)
    library = Library(paths, hashing=False)
    runner = FakeRunner(inputs=InputFolder(paths.inputs), library=library)
    engine = Engine(
        paths=paths,
        settings=SettingsStore(paths.settings, settings),
        library=library,
        make_runner=lambda: runner,
        version="0.0-test",
        flags=flags,
    )
    app = create_api(engine, paths=paths, flags=flags or {}, version="0.0-test")
    engine.start()
    return Server(app, TestClient(app, base_url=BASE_URL), engine, runner, paths)


def stop(server: Server) -> None:
    """Let a job that stands at the gate go on, and close the engine."""
    server.runner.gate.set()
    server.engine.close(timeout=10)


StartServer = Callable[..., Server]


@pytest.fixture
def start_server(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[StartServer]:
    """Start servers on one data folder."""
    make_models(tmp_path, tiny_checkpoint)
    started: list[Server] = []

    def start(flags: dict[str, Any] | None = None, **settings: Any) -> Server:
        started.append(make_server(tmp_path, flags, **settings))
        return started[-1]

    yield start
    for server in started:
        stop(server)


@pytest.fixture
def server(start_server: StartServer) -> Server:
    """A server of the test's own, with default flags and settings."""
    return start_server()


@pytest.fixture(scope="session")
def shared_server(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path
) -> Iterator[Server]:
    """One server for all tests that only ask, or whose requests are refused."""
    data = tmp_path_factory.mktemp("shared")
    make_models(data, tiny_checkpoint)
    server = make_server(data)
    yield server
    stop(server)
