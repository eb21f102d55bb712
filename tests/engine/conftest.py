"""An engine with a fake runner per test, closed afterwards whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sdforge.engine import Engine
from tests.engine.fakes import FakeRunner, make_engine

Build = Callable[..., tuple[Engine, FakeRunner]]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Build engines on one data folder; those that a test leaves open are closed."""
    engines: list[Engine] = []
    runners: list[FakeRunner] = []

    def make(**settings: Any) -> tuple[Engine, FakeRunner]:
        engine, runner = make_engine(tmp_path, **settings)
        engines.append(engine)
        runners.append(runner)
        return engine, runner

    yield make
    for runner in runners:
        runner.gate.set()
    for engine in engines:
        engine.close(timeout=10)


@pytest.fixture
def runner_and_engine(build: Build) -> tuple[FakeRunner, Engine]:
    """A started engine."""
    engine, runner = build()
    engine.start()
    return runner, engine


@pytest.fixture
def engine(runner_and_engine: tuple[FakeRunner, Engine]) -> Engine:
    """A started engine."""
    return runner_and_engine[1]


@pytest.fixture
def runner(runner_and_engine: tuple[FakeRunner, Engine]) -> FakeRunner:
    """The runner of `engine`."""
    return runner_and_engine[0]
