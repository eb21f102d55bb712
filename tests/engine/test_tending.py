"""Memory is given back between jobs when the machine needs it, on the model thread."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sdforge.engine import worker
from tests.engine.fakes import a_request, make_engine


def test_models_are_tended_on_the_model_thread_when_they_ask_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "TEND_SECONDS", 0.01)
    engine, runner = make_engine(tmp_path)
    engine.start()
    try:
        job = engine.submit(a_request())
        engine.wait(job.id, timeout=20)
        assert engine.model_state()["title"]
        runner.threads.clear()
        runner.must_tend = True
        for _ in range(1000):
            if not engine.model_state()["title"]:
                break
            threading.Event().wait(0.01)
        assert engine.model_state()["title"] == ""
        assert runner.threads == {"sdforge-model"}
    finally:
        engine.close()
