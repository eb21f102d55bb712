"""What a job keeps of the pictures that its runner hands over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest
from sdforge.core.result import ImageResult
from sdforge.core.settings import Settings
from sdforge.engine import JobStatus
from sdforge.pipeline.context import RunControl
from tests.engine.fakes import Emit, FakeRunner, a_request, make_engine


class TwoPasses(FakeRunner):
    """Shows each picture as it was before its second pass, too."""

    def run(
        self, request: GenerationRequest, settings: Settings, emit: Emit, control: RunControl
    ) -> Iterator[ImageResult]:
        for result in super().run(request, settings, emit, control):
            yield replace(result, suffix="-before-highres-fix")
            yield result


@pytest.mark.parametrize("save", [True, False])
def test_a_picture_from_on_the_way_is_saved_but_is_no_result(tmp_path: Path, save: bool) -> None:
    engine, _ = make_engine(tmp_path, TwoPasses())
    engine.start()
    job = engine.wait(engine.submit(a_request(batch_size=2), save_images=save).id, timeout=20)
    engine.close()
    assert job.status is JobStatus.DONE
    assert [image.index for image in job.images] == [0, 1]
    saved = sorted(path.name for path in (tmp_path / "outputs").rglob("0*.png"))
    before = [name for name in saved if name.endswith("-before-highres-fix.png")]
    assert (len(saved), len(before)) == ((4, 2) if save else (0, 0))


def test_img2img_has_folders_of_its_own(tmp_path: Path) -> None:
    engine, _ = make_engine(tmp_path)
    engine.start()
    request = a_request(init_images=(InputImage("0" * 64, 8, 8),), batch_size=2, batch_count=1)
    engine.wait(engine.submit(request).id, timeout=20)
    engine.close()
    folders = {path.parts[len(tmp_path.parts) + 1] for path in tmp_path.rglob("*.png")}
    assert folders == {"img2img-images", "img2img-grids"}
