"""What all tests share: the process environment that the launcher sets, and patience."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

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


def pytest_collection_finish() -> None:
    """Never look through what the imports made again."""
    _let_stay()


@pytest.fixture(scope="module", autouse=True)
def _later_imports_stay() -> Iterator[None]:
    """Nor through what the tests of a file imported, with half a million objects at last."""
    yield
    _let_stay()


def _let_stay() -> None:
    """Take all that lives out of the garbage collector's rounds.

    The memory manager collects with every model that leaves, a third of such a test's time.
    """
    gc.collect()
    gc.freeze()
