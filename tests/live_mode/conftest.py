"""The real engine with the model that ships, and live mode over it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sdforge.core.device import probe
from sdforge.core.paths import Paths
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine, PipelineRunner
from sdforge.engine.inputs import InputFolder
from sdforge.engine.job import Job
from sdforge.live.live import Live
from sdforge.live.session import Drawn, Session
from sdforge.live.wish import Wish
from sdforge.models.library import Library

PATIENCE_SECONDS = 120


@dataclass
class Client:
    """One client in this process, which shows each frame at once unless told otherwise."""

    live: Live
    session: Session = field(init=False)
    frames: list[Drawn] = field(default_factory=list)
    # When each came, by the wall's clock, which jobs go by.
    came: list[float] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    number: int = 0
    shows: bool = True
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.session = self.live.open(self.notify)

    def notify(self) -> None:
        """Take what there is; runs on the model thread, or on the caller's."""
        for kind, message in self.live.collect(self.session).items():
            if kind != "frame":
                with self.changed:
                    self.messages.append(message)
                    self.changed.notify_all()
                continue
            with self.changed:
                self.came.append(time.time())
                self.frames.append(message)
                self.changed.notify_all()
            if self.shows:
                self.live.sent(self.session, message.number)
                self.live.shown(self.session, message.number)

    def ask(self, prompt: str = "an owl", **values: Any) -> int:
        """Wish for something; return the wish's number."""
        self.number += 1
        self.live.ask(self.session, Wish(number=self.number, prompt=prompt, **values))
        return self.number

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_SECONDS), self.messages

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that nobody tells of."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def frame(self, number: int) -> Drawn:
        """Wait for a frame of a wish or a newer one and return it."""
        self.wait_for(lambda: bool(self.frames) and self.frames[-1].number >= number)
        return self.frames[-1]

    def draw(self, prompt: str = "an owl", **values: Any) -> Drawn:
        """Wish for something and wait for it."""
        return self.frame(self.ask(prompt, **values))


@dataclass
class Demo:
    """An engine with the model that ships, and its live mode."""

    engine: Engine
    live: Live

    def finished(self, job: Job) -> Job:
        return self.engine.wait(job.id, PATIENCE_SECONDS)

    def until_quiet(self) -> None:
        """Wait until no job's pictures are being written any more."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.engine.queue_state()["running"] and time.monotonic() < deadline:
            time.sleep(0.01)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One engine for the tests of a module, its checkpoint loaded by the first."""
    paths = Paths.under(tmp_path_factory.mktemp("demo"))
    library = Library(paths)
    engine = Engine(
        paths=paths,
        settings=SettingsStore(None),
        library=library,
        make_runner=lambda: PipelineRunner(
            library,
            probe_device=lambda: probe(force_cpu=True),
            flags={},
            version="test",
            inputs=InputFolder(paths.inputs),
        ),
        version="test",
    )
    live = Live(engine, library.loras.loras)
    engine.start()
    yield Demo(engine, live)
    engine.close()


@pytest.fixture
def client(demo: Demo) -> Iterator[Client]:
    client = Client(demo.live)
    yield client
    demo.live.close(client.session)
