"""The page over a real engine and a real library; only the model is a fake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.make_tiny_checkpoints import TINY_METADATA, write_checkpoint
from sdforge.core.paths import Paths
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine
from sdforge.models.library import Library
from sdforge.ui.actions import PageActions
from sdforge.ui.checkpoints import Choice
from sdforge.ui.tab_actions import TabActions
from tests.engine.fakes import FakeRunner


@dataclass
class Backend:
    """What lies behind the page."""

    engine: Engine
    runner: FakeRunner
    actions: PageActions
    paths: Paths

    @property
    def tab(self) -> TabActions:
        """The actions of the txt2img tab."""
        return self.actions.tabs["txt2img"]


def as_sent(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a loaded form as a browser sends it: of a list, what is chosen."""
    return {
        name: value.value if isinstance(value, Choice) else value for name, value in values.items()
    }


@pytest.fixture(scope="session")
def checkpoint_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two checkpoints that recommend different things, by name."""
    folder = tmp_path_factory.mktemp("checkpoints")
    large = {"modelspec.resolution": "1024x1024", "sdforge.steps": "30"}
    return {
        "small": write_checkpoint(folder / "small.safetensors", metadata=TINY_METADATA),
        "large": write_checkpoint(folder / "large.safetensors", metadata=large),
    }


@pytest.fixture
def flags() -> dict[str, int]:
    """Start-up flags of `backend`; tests of an accelerator give others."""
    return {}


@pytest.fixture
def backend(
    tmp_path: Path, checkpoint_files: dict[str, Path], flags: dict[str, int]
) -> Iterator[Backend]:
    """A started engine whose current checkpoint is `small`; `broken` is a damaged one."""
    paths = Paths.under(tmp_path)
    folder = paths.checkpoints[0]
    folder.mkdir(parents=True)
    for name, file in checkpoint_files.items():
        (folder / f"{name}.safetensors").symlink_to(file)
    (folder / "broken.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    runner = FakeRunner()
    settings = SettingsStore(paths.settings, {"sd_model_checkpoint": "small.safetensors"})
    engine = Engine(
        paths=paths,
        settings=settings,
        library=Library(paths, hashing=False),
        make_runner=lambda: runner,
        version="0.0-test",
        flags={"always_cpu": True, **flags},
    )
    engine.start()
    yield Backend(engine, runner, PageActions(engine), paths)
    runner.gate.set()
    engine.close(timeout=10)
