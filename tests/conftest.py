"""What all tests share: the process environment that the launcher sets, and patience."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from sdforge.environment.process import process_environment

# Before torch is imported: one quiet thread, so that tests beside other work keep their pace.
os.environ.update(process_environment(os.environ))
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long one example takes says nothing on a busy machine.
settings.register_profile("sdforge", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "sdforge")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the page last: while a browser is open, its event loop runs on this thread.

    `asyncio.run` in any test behind them would be refused.
    """
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)
