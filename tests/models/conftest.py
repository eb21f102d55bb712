"""Fixtures over the tiny checkpoint."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sdforge.models.bundle import ModelBundle
from tests.tiny import Parts, tiny_checkpoint, tiny_server_parts


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory)


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Parts]:
    """Parts with the tiny checkpoint loaded; tests that switch models make their own."""
    parts = tiny_server_parts(tmp_path_factory.mktemp("loaded"), checkpoint)
    parts.provider.get("")
    yield parts
    parts.provider.unload()


@pytest.fixture
def bundle(loaded: Parts) -> ModelBundle:
    return loaded.provider.get("")
