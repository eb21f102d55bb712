"""Sweeps over an engine whose runner draws plain pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sdforge.core.paths import Paths
from sdforge.engine import Engine
from sdforge.sweeps.request import AskedAxis, Options, SweepRequest
from sdforge.sweeps.sweeps import Sweeps
from tests.engine.fakes import FakeRunner, a_request, make_engine

PATIENCE = 60.0


@dataclass
class Bench:
    """Everything that a test of sweeps can reach."""

    sweeps: Sweeps
    engine: Engine
    runner: FakeRunner
    paths: Paths


Open = Callable[..., Bench]


@pytest.fixture
def open_bench(tmp_path: Path) -> Iterator[Open]:
    """Open benches on one data folder; those that a test leaves open are closed."""
    opened: list[Bench] = []

    def make(runner: FakeRunner | None = None, **settings: Any) -> Bench:
        engine, runner = make_engine(tmp_path, runner, **settings)
        paths = Paths.under(tmp_path)
        bench = Bench(Sweeps(engine, paths), engine, runner, paths)
        opened.append(bench)
        return bench

    yield make
    for bench in opened:
        bench.runner.gate.set()
    for bench in opened:
        bench.engine.close(timeout=10)


@pytest.fixture
def bench(open_bench: Open) -> Bench:
    """A started engine with its sweeps."""
    made = open_bench()
    made.engine.start()
    return made


def asked(*axes: tuple[str, str], options: dict[str, Any] | None = None, **base: Any) -> Any:
    """Return a sweep over axes given as (label, values)."""
    return SweepRequest(
        base=a_request(**base),
        axes=[AskedAxis(axis=label, values=values) for label, values in axes],
        options=Options(**(options or {})),
    )
