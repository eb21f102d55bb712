"""What a merged checkpoint draws, loaded like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdforge.core.errors import Cancelled
from sdforge.core.events import Event, Notice, StepDone
from sdforge.core.merge import Merge
from sdforge.pipeline.context import RunControl
from sdforge.pipeline.generate import generate
from sdforge.pipeline.merge import MergeRun, resolved_merge
from tests.pipeline.conftest import Pipeline
from tests.tiny import make_checkpoint, tiny_server_parts


def test_pictures_follow_the_multiplier(tmp_path: Path, checkpoint: Path) -> None:
    other = make_checkpoint(tmp_path / "other.safetensors", seed=1, dtype="F16")
    parts = tiny_server_parts(tmp_path / "data", checkpoint, other)
    pipeline, library = Pipeline(parts), parts.library
    events: list[Event] = []

    def merged(multiplier: float) -> str:
        asked = Merge(primary="half", secondary="other", multiplier=multiplier)
        merge = resolved_merge(asked, library)
        run = MergeRun(merge=merge, library=library, emit=events.append, control=RunControl())
        assert list(run.pictures()) == []
        return merge.name

    def drawn(name: str) -> np.ndarray:
        context = pipeline.context(steps=2)
        request = replace(context.request, checkpoint=library.find(name).title)
        (result,) = generate(replace(context, request=request))
        return result.pixels

    a, b = drawn("half"), drawn("other")
    assert np.array_equal(drawn(merged(0.0)), a)
    assert np.array_equal(drawn(merged(1.0)), b)
    between = drawn(merged(0.5))
    assert not np.array_equal(between, a)
    assert not np.array_equal(between, b)

    made = library.find("0.5(half) + 0.5(other)")
    assert made.sha256 is not None, "known without reading the file again"
    assert library.ensure_hash(replace(made, sha256=None)).sha256 == made.sha256
    steps = [event.step for event in events if isinstance(event, StepDone)]
    assert steps[-1] == 100 and len(steps) > 50
    assert any(isinstance(event, Notice) and "saved" in event.text for event in events)
    parts.provider.unload()


def test_a_cancelled_merge_stops_in_the_middle(tmp_path: Path, checkpoint: Path) -> None:
    parts = tiny_server_parts(tmp_path / "data", checkpoint)
    merge = resolved_merge(
        Merge(primary="half", method="No interpolation", name="m"), parts.library
    )
    control = RunControl()

    def emit(event: Event) -> None:
        if isinstance(event, StepDone) and event.step > 20:
            control.cancel()

    run = MergeRun(merge=merge, library=parts.library, emit=emit, control=control)
    with pytest.raises(Cancelled):
        list(run.pictures())
    folder = parts.paths.checkpoints[0]
    assert [path.name for path in folder.iterdir()] == ["half.safetensors"]
